"""Which fact of a shake map stands in which of the sixteen cells: the tower's patches and the text tables agree."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MAP_CELLS", "map_table"]

MAP_CELLS = {
    "region": 0,
    "magnitude_ones": 1,
    "magnitude_tenths": 2,
    "max_intensity": 3,
    "depth_hundreds": 4,
    "depth_tens": 5,
    "depth_ones": 6,
    "quadrant": 7,
}


def map_table(targets: Mapping[str, object]) -> dict[int, str]:
    """Return {cell in raster order: word or digit} for the targets of a map."""
    tenths, depth = round(float(str(targets["magnitude"])) * 10), int(str(targets["depth_km"]))
    values = {
        "region": str(targets["region"]),
        "magnitude_ones": str(tenths // 10),
        "magnitude_tenths": str(tenths % 10),
        "max_intensity": str(targets["max_intensity"]),
        "depth_hundreds": str(depth // 100),
        "depth_tens": str(depth // 10 % 10),
        "depth_ones": str(depth % 10),
        "quadrant": str(targets["quadrant"]),
    }
    return {cell: values[name] for name, cell in MAP_CELLS.items()}

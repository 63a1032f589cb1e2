"""The windows of a coordinates task's maps, each with its true places and answers."""

from __future__ import annotations

__all__ = ["MOST_FRAMES", "MOST_PLACES", "SIDE", "Frame", "find_frames"]

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from vlm_backbones.analysis.report.land import land_picture

MOST_FRAMES, MOST_PLACES = 12, 80
SIDE = 190  # pixels of a panel


@dataclass(frozen=True)
class Frame:
    """A window of the map, square in kilometres, and the answers to the questions in it."""

    name: str
    places: pl.DataFrame
    south: float
    west: float
    rows_degrees: float
    columns_degrees: float

    @property
    def n(self) -> int:
        return self.places.height

    @property
    def error(self) -> str:
        """Median error in km and n, with the exact interval of its order statistics where there are six or more."""
        from scipy.stats import binom

        ordered = np.sort(self.places["error_km"].to_numpy())
        rank = int(binom.ppf(0.025, self.n, 0.5))
        between = f" [{ordered[rank - 1]:,.0f}, {ordered[self.n - rank]:,.0f}]" if rank else ""
        return f"{np.median(ordered):,.0f} km{between}, n = {self.n:,}"

    @property
    def window(self) -> str:
        """Corner to corner, such as 36 to 28\u00b0S, 75 to 67\u00b0W."""
        rows = _span(self.south, self.south + self.rows_degrees, "N", "S")
        return f"{rows}, {_span(self.west, self.west + self.columns_degrees, 'E', 'W')}"

    def rows(self) -> pl.DataFrame:
        """What the panel shows, in shares of its side: the land and the answers; `frame` is its title."""
        north, east = self.south + self.rows_degrees, self.west + self.columns_degrees
        land = land_picture(self.south, north, self.west, east, width=SIDE, height=SIDE)
        across = [(pl.col(f"{end}longitude") - self.west) / self.columns_degrees for end in ("", "answer_")]
        up = [(pl.col(f"{end}latitude") - self.south) / self.rows_degrees for end in ("", "answer_")]
        names = ("x", "x2", "y", "y2")
        shown = self.places.head(MOST_PLACES).select(
            "way", "label", *(value.alias(name) for value, name in zip(across + up, names, strict=True)),
            kind=pl.lit("answer"),
        )  # fmt: skip
        head = pl.DataFrame({"kind": ["land"], "url": [land]})
        title = "\n".join((self.name, self.window, self.error))
        return pl.concat([head, shown], how="diagonal").with_columns(frame=pl.lit(title))


def _span(low: float, high: float, plus: str, minus: str) -> str:
    names = [f"{abs(end):.0f}\u00b0{plus if end >= 0 else minus}" for end in (_wrapped(low), _wrapped(high))]
    return f"{names[0]} to {names[1]}"


def _wrapped(degrees: float) -> float:
    return (degrees + 180) % 360 - 180


def find_frames(answered: pl.DataFrame) -> list[Frame]:
    """The largest frames, by name."""
    sized = answered.drop_nulls("frame").group_by("frame").len().sort(["len", "frame"], descending=[True, False])
    names = sorted(sized["frame"].head(MOST_FRAMES))
    return [_frame(name, answered.filter(frame=name)) for name in names]


def _frame(name: str, places: pl.DataFrame) -> Frame:
    """A window around the true places; all longitudes on one side of the date line."""
    turn = 360 * ((pl.col("longitude") - places["longitude"][0]) / 360).round()
    places = places.with_columns(pl.col("longitude") - turn, pl.col("answer_longitude") - turn)
    latitude, longitude = (places[column].to_numpy() for column in ("latitude", "longitude"))
    south, north, west, east = latitude.min(), latitude.max(), longitude.min(), longitude.max()
    shrink = max(0.2, math.cos(math.radians((south + north) / 2)))
    side = max(1.0, north - south, (east - west) * shrink) * 1.16
    left, bottom = (west + east) / 2 - side / shrink / 2, (south + north) / 2 - side / 2
    return Frame(name, places, float(bottom), float(left), float(side), float(side / shrink))

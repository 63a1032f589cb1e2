"""The world's land as a mask of 0.1 degrees, shipped as a one-bit picture.

Sampled from the GLOBE elevation model (NOAA, public domain) through global-land-mask 1.0.0 (MIT licence).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["is_land"]

_MASK = Path(__file__).parent / "assets" / "land.png"
_CELLS_PER_DEGREE = 10


@cache
def _land() -> NDArray[np.bool_]:
    with Image.open(_MASK) as picture:
        return np.asarray(picture.convert("1"), dtype=bool)  # (1800, 3600), north at the top


def is_land(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each point is on land.

    Parameters
    ----------
    latitude, longitude
        Degrees, WGS 84, of equal shape; longitudes wrap at the date line.
    """
    mask = _land()
    rows = np.clip(np.floor((90.0 - latitude) * _CELLS_PER_DEGREE).astype(int), 0, mask.shape[0] - 1)
    columns = np.floor((longitude + 180.0) * _CELLS_PER_DEGREE).astype(int) % mask.shape[1]
    land: NDArray[np.bool_] = mask[rows, columns]
    return land

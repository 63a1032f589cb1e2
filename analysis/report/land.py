"""A quiet background for maps: land in transparent grey."""

from __future__ import annotations

__all__ = ["land_picture"]

import base64
import io
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

_PER_DEGREE = 10
_GREY, _ALPHA = 128, 60


@cache
def _land() -> NDArray[np.bool_]:
    """The pocket study's land mask of 0.1 degrees: (1800, 3600), north at the top, 180 W at the left."""
    from PIL import Image

    with (files("vlm_backbones.pocket") / "assets" / "land.png").open("rb") as file, Image.open(file) as picture:
        return np.asarray(picture.convert("1"), dtype=bool)


def land_picture(south: float, north: float, west: float, east: float, *, width: int, height: int) -> str:
    """Return a data URI of the land in a window, width x height pixels; the longitude may run over the date line."""
    from PIL import Image

    latitude = north - (np.arange(height) + 0.5) * (north - south) / height
    longitude = west + (np.arange(width) + 0.5) * (east - west) / width
    rows = np.floor((90 - latitude) * _PER_DEGREE).astype(int)
    columns = np.floor((longitude + 180) * _PER_DEGREE).astype(int) % _land().shape[1]
    inside = (rows >= 0) & (rows < _land().shape[0])
    land = _land()[np.ix_(np.clip(rows, 0, _land().shape[0] - 1), columns)] & inside[:, None]
    pixels = np.stack([np.full(land.shape, _GREY), np.where(land, _ALPHA, 0)], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, mode="LA").save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

"""From any picture file to the RGB that training and evaluation both see. No torch; open to all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vlm_backbones.errors import DataError

__all__ = ["MAX_SIDE_PX", "open_rgb", "to_rgb"]

MAX_SIDE_PX = 13_377
"""Padded to a square, a picture has at most the 178,956,970 pixels that Pillow opens."""

_ORIENTATION = 0x0112  # EXIF
_SIXTEEN_BIT = 65_535


def open_rgb(data: bytes | Path, *, upright: bool = True) -> Image.Image:
    """Return an encoded picture as RGB, as `to_rgb` does.

    Parameters
    ----------
    upright
        False: as its pixels are stored, for boxes that count in them, and without the tag that would turn it later.

    Raises
    ------
    DataError
        If it is corrupt, larger than `MAX_SIDE_PX` a side, or of a kind that has no colours.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as picture:
            _check_size(picture)
            picture.load()
            return to_rgb(picture if upright else _as_stored(picture))
    except Image.DecompressionBombError as error:
        raise DataError(f"the image is too large ({error}): shrink it to {MAX_SIDE_PX} pixels a side.") from error
    except (OSError, ValueError, SyntaxError) as error:
        why = str(error).split(" <_io.")[0]  # Pillow names the buffer's address
        raise DataError(f"the image is corrupt ({why}). Replace it or drop the row.") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB as a viewer shows it.

    Upright by its EXIF tag; the first frame of an animation; transparent parts on white; 16 bits scaled to 8, which
    Pillow's own conversion would cut off at 255.

    Raises
    ------
    DataError
        If it is larger than `MAX_SIDE_PX` a side, or of a kind that has no colours.
    """
    _check_size(picture)
    if getattr(picture, "is_animated", False) and picture.tell() != 0:
        picture.seek(0)
    if picture.getexif().get(_ORIENTATION, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        return _from_16_bit(picture)
    if picture.has_transparency_data:
        canvas = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(canvas, picture.convert("RGBA")).convert("RGB")
    if picture.mode == "F":
        raise DataError("the image holds floating-point numbers, no colours: save it with 8 bits a channel.")
    try:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    except ValueError as error:
        raise DataError(f"the image's mode {picture.mode} has no conversion to RGB: save it as RGB.") from error


def _as_stored(picture: Image.Image) -> Image.Image:
    copy = picture.copy()
    copy.info = {key: value for key, value in picture.info.items() if key == "transparency"}
    return copy


def _check_size(picture: Image.Image) -> None:
    if max(picture.size) > MAX_SIDE_PX:
        width, height = picture.size
        raise DataError(f"the image is {width}x{height} pixels: shrink it to {MAX_SIDE_PX} a side.")


def _from_16_bit(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > _SIXTEEN_BIT:
        raise DataError(
            f"the image holds whole numbers from {values.min()} to {values.max()}, no colours: save it with 8 bits."
        )
    grey = (values * 255 + _SIXTEEN_BIT // 2) // _SIXTEEN_BIT
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")

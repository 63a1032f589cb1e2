"""From any picture file to the RGB that training and evaluation both see. No torch; open to all."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from vlm_backbones.errors import DataError

__all__ = ["FORMATS", "MAX_SIDE_PX", "check_picture", "open_rgb", "to_rgb"]

MAX_SIDE_PX = 13_377
"""Padded to a square, a picture has at most the 178,956,970 pixels that Pillow opens."""

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")
"""What is read, whatever a file's ending says. Pillow would hand PostScript to Ghostscript, another program."""

_ORIENTATION = 0x0112  # EXIF
_SIXTEEN_BIT = 65_535
_ROWS_AT_ONCE = 512
"""Of pixels: a large picture's intermediate values would take several times its own memory."""


def open_rgb(data: bytes | Path, *, upright: bool = True) -> Image.Image:
    """Return an encoded picture as RGB, as `to_rgb` does.

    Parameters
    ----------
    upright
        False: as its pixels are stored, for boxes that count in them, and without the tag that would turn it later.

    Raises
    ------
    DataError
        If it is corrupt, larger than `MAX_SIDE_PX` a side, of a format not in `FORMATS`, or of a kind that has no
        colours.
    """
    with _opened(data) as picture:
        picture.load()
        return to_rgb(picture if upright else _as_stored(picture))


def check_picture(data: bytes | Path, *, decode: bool) -> None:
    """Read a picture's head, or with `decode` all of it.

    Raises
    ------
    DataError
        As `open_rgb`, but for what the colours are.
    """
    with _opened(data) as picture:
        if decode:
            picture.load()


@contextmanager
def _opened(data: bytes | Path) -> Iterator[Image.Image]:
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # lmms-eval sets it where it is imported: half a picture passed for whole
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS) as picture:
            _check_size(picture)
            yield picture
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"the image is too large ({error}): shrink it to {MAX_SIDE_PX} pixels a side.") from error
    except Exception as error:  # a damaged file makes Pillow's readers raise nearly anything
        why = str(error).split(" <_io.")[0] or type(error).__name__  # Pillow names the buffer's address
        raise DataError(f"the image is corrupt or no picture ({why}). Replace it or drop the row.") from error


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
        return _on_white(picture)
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


def _on_white(picture: Image.Image) -> Image.Image:
    found = Image.new("RGB", picture.size)
    for box in _strips(picture):
        part = picture.crop(box).convert("RGBA")
        found.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part).convert("RGB"), box)
    return found


def _from_16_bit(picture: Image.Image) -> Image.Image:
    if picture.mode != "I;16":  # other orders of bytes have no extrema
        picture = picture.convert("I")
    extrema: Any = picture.getextrema()  # of one channel
    low, high = extrema
    if low < 0 or high > _SIXTEEN_BIT:
        raise DataError(f"the image holds whole numbers from {low} to {high}, no colours: save it with 8 bits.")
    found = Image.new("RGB", picture.size)
    for box in _strips(picture):
        values = np.asarray(picture.crop(box)).astype(np.int64)
        grey = (values * 255 + _SIXTEEN_BIT // 2) // _SIXTEEN_BIT
        found.paste(Image.fromarray(grey.astype(np.uint8)).convert("RGB"), box)
    return found


def _strips(picture: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Yield the picture's rows, some hundreds at a time, as boxes."""
    width, height = picture.size
    for top in range(0, height, _ROWS_AT_ONCE):
        yield 0, top, width, min(height, top + _ROWS_AT_ONCE)

"""A font of three by five pixels: the same on every machine, readable at 112 pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["width_px", "write"]

# Five rows of three bits each, top row first; narrow letters state their own width.
_GLYPHS: dict[str, tuple[str, ...]] = {
    "0": ("111", "101", "101", "101", "111"), "1": ("010", "110", "010", "010", "111"),
    "2": ("111", "001", "111", "100", "111"), "3": ("111", "001", "111", "001", "111"),
    "4": ("101", "101", "111", "001", "001"), "5": ("111", "100", "111", "001", "111"),
    "6": ("111", "100", "111", "101", "111"), "7": ("111", "001", "010", "010", "010"),
    "8": ("111", "101", "111", "101", "111"), "9": ("111", "101", "111", "001", "111"),
    "-": ("000", "000", "111", "000", "000"), ".": ("0", "0", "0", "0", "1"), " ": ("00",) * 5,
    "M": ("10001", "11011", "10101", "10001", "10001"), "K": ("101", "101", "110", "101", "101"),
    "I": ("1", "1", "1", "1", "1"), "V": ("101", "101", "101", "101", "010"), "X": ("101", "101", "010", "101", "101"),
}  # fmt: skip
_SPACING_PX = 1


def width_px(text: str) -> int:
    """Return the width of a text in pixels."""
    return max(0, sum(len(_GLYPHS[letter][0]) + _SPACING_PX for letter in text) - _SPACING_PX)


def write(canvas: NDArray[np.uint8], left: int, top: int, text: str, colour: tuple[int, int, int]) -> None:
    """Write a text into an array (height, width, 3); what falls outside is cut off."""
    height, width = canvas.shape[:2]
    for letter in text:
        glyph = _GLYPHS[letter]
        for row, bits in enumerate(glyph):
            for column, bit in enumerate(bits):
                y, x = top + row, left + column
                if bit == "1" and 0 <= y < height and 0 <= x < width:
                    canvas[y, x] = colour
        left += len(glyph[0]) + _SPACING_PX

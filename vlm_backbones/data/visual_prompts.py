"""Visual prompts of ViP-LLaVA: eight shapes drawn around a region, and the words that point at them. No torch.

A prompt is drawn in two steps, so that it can be drawn again: `sample_prompt` fixes every random number with a
generator, `draw_prompts` blends prompts over the picture. Sizes are those of a picture of 336 pixels and grow with it.
Region records of ViP-LLaVA's training files become a drawn picture and a conversation in `region_example`.

Source: Cai et al. 2024, arXiv 2312.00784, and the code of the ViP-LLaVA repository where the two differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vlm_backbones.data._prompt_strokes import Box, Pen, Stroke, scale_of, strokes_of
from vlm_backbones.errors import ConfigError, DataError, nearest

__all__ = [
    "COLORS",
    "EVALUATION_ALPHA",
    "SHAPES",
    "Color",
    "Region",
    "VisualPrompt",
    "draw_prompts",
    "sample_prompt",
    "words_of",
]

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "lime": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "fuchsia": (255, 0, 255),
    "aqua": (0, 255, 255),
    "orange": (255, 165, 0),
    "purple": (128, 0, 128),
    "gold": (255, 215, 0),
}
"""The named colours, RGB."""

SHAPES: dict[str, str] = {
    "rectangle": "within",
    "ellipse": "within",
    "triangle": "with",
    "point": "at",
    "scribble": "with",
    "mask contour": "with",
    "mask": "with",
    "arrow": "pointed to by",
}
"""Shape -> the words that come before it in a text."""

EVALUATION_ALPHA = 128
"""How opaque an overlay of the region benchmarks is, of 255."""

_FARTHEST_PX = 100_000  # drawing walks along a line pixel by pixel, outside of the picture too
_ALPHA = (96, 255)
_MASK_ALPHA = (48, 128)


@dataclass(frozen=True)
class Color:
    """A colour with its name; no name where it was drawn at random, and then no text names it."""

    rgb: tuple[int, int, int]
    name: str | None = None


@dataclass(frozen=True)
class Region:
    """A part of a picture: a box x1, y1, x2, y2 in pixels of the original, and perhaps masks.

    `polygons`: flat x, y, x, y, ... each, as segmentations have them.

    Raises
    ------
    DataError
        If the box is no box, or a polygon has fewer than three points.
    """

    box: Box
    polygons: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.box) != 4 or not all(map(math.isfinite, self.box)):
            raise DataError(f"the box {self.box} is not four finite numbers x1, y1, x2, y2.")
        if max(map(abs, (*self.box, *chain(*self.polygons)))) > _FARTHEST_PX:
            raise DataError(f"a box or a mask ends more than {_FARTHEST_PX} pixels away: no picture is that large.")
        if self.box[0] > self.box[2] or self.box[1] > self.box[3]:
            raise DataError(f"the box {self.box} ends before it starts. Expected x1 <= x2 and y1 <= y2, in pixels.")
        for polygon in self.polygons:
            if len(polygon) < 6 or len(polygon) % 2 or not all(map(math.isfinite, polygon)):
                raise DataError(f"a mask has {len(polygon)} numbers: expected x, y of at least three points.")

    def outlines(self) -> list[Any]:
        """Return the masks as arrays of points, (n, 2) each."""
        return [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in self.polygons]


@dataclass(frozen=True)
class VisualPrompt:
    """One drawn shape with every random number fixed: drawing it twice gives the same pixels."""

    shape: str
    color: Color
    alpha: int
    strokes: tuple[Stroke, ...]


def sample_prompt(
    region: Region,
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    shape: str,
    color: Color,
    alpha: int | None = None,
    width: int | None = None,
    constant: bool = False,
) -> VisualPrompt:
    """Return a visual prompt around a region of a picture.

    Parameters
    ----------
    region
        Where; pixels of the picture.
    size
        (width, height) of the picture in pixels.
    rng
        Fixes what is random: equal generators give equal prompts.
    shape
        One of `SHAPES`.
    color
        Named or not.
    alpha
        Opacity, 0 to 255; left out it is drawn from 96 to 255, for `mask` from 48 to 128.
    width
        A stroke width at 336 pixels that replaces the drawn one; a point has none.
    constant
        The style of the region benchmarks: rectangles of width 3, points of radius 8.

    Raises
    ------
    ConfigError
        If the shape is unknown or alpha is out of range.
    DataError
        If a point has no mask, or a region has no area for a triangle.
    """
    if shape not in SHAPES:
        raise ConfigError(f"unknown visual prompt {shape!r}.{nearest(shape, SHAPES)}")
    if alpha is None:
        alpha = int(rng.integers(*(_MASK_ALPHA if shape == "mask" else _ALPHA), endpoint=True))
    if not 0 <= alpha <= 255:
        raise ConfigError(f"alpha {alpha} is outside 0 to 255.")
    pen = Pen(scale_of(size), rng, width, constant)
    return VisualPrompt(shape, color, alpha, strokes_of(shape, region.box, region.outlines(), pen))


def draw_prompts(image: Image.Image, prompts: Iterable[VisualPrompt]) -> Image.Image:
    """Return the picture in RGB with the prompts blended over it, one after another.

    Within one prompt strokes overwrite each other, so that crossing lines are no more opaque than single ones.
    """
    drawn = image.convert("RGB").convert("RGBA")
    for prompt in prompts:
        layer = Image.new("RGBA", drawn.size, (0, 0, 0, 0))
        canvas = ImageDraw.Draw(layer)
        for stroke in prompt.strokes:
            _draw(canvas, stroke, (*prompt.color.rgb, prompt.alpha))
        drawn = Image.alpha_composite(drawn, layer)
    return drawn.convert("RGB")


def _draw(canvas: ImageDraw.ImageDraw, stroke: Stroke, ink: tuple[int, int, int, int]) -> None:
    points = [(float(x), float(y)) for x, y in stroke.points]
    if stroke.kind == "rectangle":
        canvas.rectangle(points, outline=ink, width=stroke.width)
    elif stroke.kind == "ellipse" and stroke.width:
        canvas.ellipse(points, outline=ink, width=stroke.width)
    elif stroke.kind == "ellipse":
        canvas.ellipse(points, fill=ink, outline=ink)
    elif stroke.kind == "line":
        canvas.line(points, fill=ink, width=stroke.width, joint="curve" if stroke.curved else None)
    elif stroke.width:
        canvas.polygon(points, outline=ink)
    else:
        canvas.polygon(points, fill=ink)


def words_of(shape: str, color: Color, *, the: bool = True) -> str:
    """Return the words that point at a prompt.

    Examples
    --------
    >>> words_of("rectangle", Color((255, 0, 0), "red"))
    'within the red rectangle'
    >>> words_of("arrow", Color((1, 2, 3)), the=False)
    'pointed to by arrow'
    """
    parts: Sequence[str | None] = (SHAPES[shape], "the" if the else None, color.name, shape)
    return " ".join(part for part in parts if part)

"""Procedural scenes for `vqa_scene`: up to six coloured objects on a grid of four by four cells.

A scene is drawn from a seed alone; its picture is the same to the pixel under the pinned Pillow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["COLOURS", "GRID", "SHAPES", "SIZES", "SceneObject", "article", "caption", "draw_scene", "sample_scene"]

GRID = 4
CELL_PX = 28
IMAGE_PX = GRID * CELL_PX
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 89, 200),
    "yellow": (245, 205, 30),
    "purple": (140, 70, 180),
    "orange": (255, 127, 14),
}
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "large")
_RADIUS_PX = {"small": 6.0, "large": 11.0}
_BACKGROUND = (244, 243, 238)
_GRID_LINE = (228, 226, 218)
_SUPERSAMPLING = 2


@dataclass(frozen=True)
class SceneObject:
    """One object: its attributes, its cell (row 0 at the top) and its offset in the cell in pixels."""

    size: str
    colour: str
    shape: str
    row: int
    column: int
    dx_px: float
    dy_px: float

    @property
    def attributes(self) -> tuple[str, str, str]:
        """Return (size, colour, shape)."""
        return self.size, self.colour, self.shape


def sample_scene(rng: np.random.Generator) -> list[SceneObject]:
    """Draw 2 to 6 objects in distinct cells, in raster order.

    Half of the scenes repeat one colour or shape, so that counts above one are common.
    """
    count = int(rng.integers(2, 7))
    cells = sorted(int(cell) for cell in rng.choice(GRID * GRID, size=count, replace=False))
    colours = list(COLOURS)
    theme_colour = str(rng.choice(colours)) if rng.random() < 0.3 else None
    theme_shape = str(rng.choice(SHAPES)) if rng.random() < 0.3 else None
    objects = []
    for cell in cells:
        colour = theme_colour if theme_colour and rng.random() < 0.6 else str(rng.choice(colours))
        shape = theme_shape if theme_shape and rng.random() < 0.6 else str(rng.choice(SHAPES))
        size = str(rng.choice(SIZES))
        slack = CELL_PX / 2 - _RADIUS_PX[size] - 1.5
        dx, dy = (float(value) for value in np.round(rng.uniform(-slack, slack, size=2), 2))
        objects.append(SceneObject(size, colour, shape, cell // GRID, cell % GRID, dx, dy))
    return objects


def _polygon(shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    if shape == "triangle":
        angles, radii = [-90.0, 30.0, 150.0], [radius * 1.15] * 3
        y += radius * 0.2
    else:
        angles = [-90.0 + 36.0 * step for step in range(10)]
        radii = [radius * 1.15 if step % 2 == 0 else radius * 0.5 for step in range(10)]
    return [
        (x + r * math.cos(math.radians(a)), y + r * math.sin(math.radians(a)))
        for a, r in zip(angles, radii, strict=True)
    ]


def draw_scene(objects: list[SceneObject]) -> Image.Image:
    """Render a scene as an RGB picture of 112 x 112 pixels."""
    scale = _SUPERSAMPLING
    image = Image.new("RGB", (IMAGE_PX * scale, IMAGE_PX * scale), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    for step in range(1, GRID):
        at = step * CELL_PX * scale
        draw.line([(at, 0), (at, IMAGE_PX * scale)], fill=_GRID_LINE, width=scale)
        draw.line([(0, at), (IMAGE_PX * scale, at)], fill=_GRID_LINE, width=scale)
    for item in objects:
        x = (item.column * CELL_PX + CELL_PX / 2 + item.dx_px) * scale
        y = (item.row * CELL_PX + CELL_PX / 2 + item.dy_px) * scale
        radius, fill = _RADIUS_PX[item.size] * scale, COLOURS[item.colour]
        if item.shape == "circle":
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)
        elif item.shape == "square":
            half = radius * 0.9
            draw.rectangle([x - half, y - half, x + half, y + half], fill=fill)
        else:
            draw.polygon(_polygon(item.shape, x, y, radius), fill=fill)
    return image.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BOX)


def article(word: str) -> str:
    """Return "an" before a vowel, else "a"."""
    return "an" if word[0] in "aeiou" else "a"


def caption(objects: list[SceneObject]) -> str:
    """Return one sentence that names every object with its cell, in raster order."""
    parts = [
        f"a {item.size} {item.colour} {item.shape} in row {item.row + 1} column {item.column + 1}" for item in objects
    ]
    return f"There is {', '.join(parts)}."

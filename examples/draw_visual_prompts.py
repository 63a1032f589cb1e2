"""Draw the eight visual prompts on a picture: three random drawings of each shape, and the overlay of evaluation.

python examples/draw_visual_prompts.py OUT.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vlm_backbones.data.visual_prompts import COLORS, SHAPES, Color, Region, VisualPrompt, draw_prompts, sample_prompt

SIDE_PX, GAP_PX, TITLE_PX, DRAWINGS = 200, 12, 22, 3
BOX = (50.0, 45.0, 150.0, 155.0)
BLOB = tuple(
    value
    for angle in np.linspace(0, 2 * np.pi, 40, endpoint=False)
    for value in (
        100 + (42 + 8 * np.cos(3 * angle)) * np.cos(angle),
        100 + (47 + 8 * np.cos(3 * angle)) * np.sin(angle),
    )
)


def ground() -> Image.Image:
    """Return a grey picture with the marked thing in it."""
    picture = Image.new("RGB", (SIDE_PX, SIDE_PX), (226, 229, 232))
    ImageDraw.Draw(picture).polygon(list(zip(BLOB[::2], BLOB[1::2], strict=True)), fill=(150, 158, 168))
    return picture


def prompts_of(shape: str, row: int) -> list[VisualPrompt]:
    """Return a random drawing of the shape; the last row is the style of evaluation: red, alpha 128, width 3."""
    rng = np.random.default_rng([list(SHAPES).index(shape), row])
    region = Region(BOX, (BLOB,))
    if row == DRAWINGS:
        red = Color(COLORS["red"], "red")
        made = sample_prompt(region, (336, 336), rng, shape=shape, color=red, alpha=128, width=3, constant=True)
        return [made]
    name = list(COLORS)[int(rng.integers(len(COLORS)))]
    return [sample_prompt(region, (SIDE_PX, SIDE_PX), rng, shape=shape, color=Color(COLORS[name], name))]


def draw() -> Image.Image:
    """Return the sheet: a column a shape."""
    width = len(SHAPES) * (SIDE_PX + GAP_PX) + GAP_PX
    sheet = Image.new("RGB", (width, TITLE_PX + (DRAWINGS + 1) * (SIDE_PX + GAP_PX) + GAP_PX), "white")
    canvas = ImageDraw.Draw(sheet)
    for column, shape in enumerate(SHAPES):
        left = GAP_PX + column * (SIDE_PX + GAP_PX)
        canvas.text((left, 6), shape, fill="black", font_size=14)
        for row in range(DRAWINGS + 1):
            tile = draw_prompts(ground(), prompts_of(shape, row))
            sheet.paste(tile, (left, TITLE_PX + GAP_PX + row * (SIDE_PX + GAP_PX)))
    return sheet


if __name__ == "__main__":
    draw().save(Path(sys.argv[1]), optimize=True)

"""Draw the eight visual prompts on a picture: three random drawings of each shape, and the overlay of evaluation.

python examples/draw_visual_prompts.py OUT.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vlm_backbones.data.visual_prompts import COLORS, SHAPES, Color, Region, VisualPrompt, draw_prompts, sample_prompt

SIDE_PX, GAP_PX, NAME_PX, DRAWINGS = 200, 10, 190, 3
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


def prompts_of(shape: str, drawing: int) -> list[VisualPrompt]:
    """Return a random drawing of the shape; the last is the style of evaluation: red, alpha 128, width 3."""
    rng = np.random.default_rng([list(SHAPES).index(shape), drawing])
    region = Region(BOX, (BLOB,))
    if drawing == DRAWINGS:
        red = Color(COLORS["red"], "red")
        made = sample_prompt(region, (336, 336), rng, shape=shape, color=red, alpha=128, width=3, constant=True)
        return [made]
    name = list(COLORS)[int(rng.integers(len(COLORS)))]
    return [sample_prompt(region, (SIDE_PX, SIDE_PX), rng, shape=shape, color=Color(COLORS[name], name))]


def draw() -> Image.Image:
    """Return the sheet: a row a shape."""
    step = SIDE_PX + GAP_PX
    sheet = Image.new("RGB", (NAME_PX + (DRAWINGS + 1) * step, len(SHAPES) * step), "white")
    canvas = ImageDraw.Draw(sheet)
    for row, shape in enumerate(SHAPES):
        canvas.text((8, row * step + SIDE_PX // 2 - 14), shape, fill="black", font_size=28)
        for column in range(DRAWINGS + 1):
            tile = draw_prompts(ground(), prompts_of(shape, column))
            sheet.paste(tile, (NAME_PX + column * step, row * step))
    return sheet


if __name__ == "__main__":
    draw().save(Path(sys.argv[1]), optimize=True)

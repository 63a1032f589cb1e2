"""Draw docs/images/gallery.png: 24 examples of the pocket data. `python examples/draw_gallery.py OUT.png`."""

from __future__ import annotations

import json
import sys
import textwrap

import datasets
from PIL import Image, ImageDraw, ImageFont

from vlm_backbones.pocket.datasets import ensure_pocket_data

COLUMNS, SIDE_PX, TEXT_PX, GAP_PX = 6, 224, 74, 14


def main(out: str) -> None:
    """Lay out twelve scenes and twelve shake maps of the test split with a question and its answer."""
    folder = ensure_pocket_data()
    scenes = datasets.load_from_disk(str(folder / "vqa_scene" / "test"))
    maps = datasets.load_from_disk(str(folder / "seismic_coords" / "test"))
    tiles = [(row["image"], f"{row['question']} {row['answers'][0]}") for row in (scenes[13 * i] for i in range(12))]
    for index in range(12):
        row = maps[53 * index]
        facts = json.loads(row["targets"])
        tiles.append((row["image"], f"{facts['region']}: {row['latitude']:.1f}, {row['longitude']:.1f}"))
    rows = len(tiles) // COLUMNS
    width, height = COLUMNS * (SIDE_PX + GAP_PX) + GAP_PX, rows * (SIDE_PX + TEXT_PX) + GAP_PX
    page = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=17)
    for index, (picture, text) in enumerate(tiles):
        left = GAP_PX + index % COLUMNS * (SIDE_PX + GAP_PX)
        top = GAP_PX + index // COLUMNS * (SIDE_PX + TEXT_PX)
        page.paste(picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST), (left, top))
        draw.text((left, top + SIDE_PX + 4), textwrap.fill(text, 26), fill=(40, 40, 40), font=font)
    page.save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Made-up conversations in the proportions and lengths of LLaVA's finetuning mix of 665,298; nothing is downloaded.

Published, and followed: the examples of each picture folder of `llava_v1_5_mix665k.json` and those without a picture
(coco 364,100, vg 86,417, gqa 72,140, ocr_vqa 80,000, textvqa 21,953, text alone 40,688), of coco's the 158,000 that
GPT-4 wrote (58,000 conversations, 23,000 descriptions, 77,000 of reasoning; LLaVA's docs/Data.md), all questions of an
image in one conversation, and the cut at 2,048 tokens. Not published: turns and lengths. These averages are ours, so
chosen that an example has about 200 tokens of text, as the shipped studies expect; around them turns are Poisson's,
and lengths lognormal.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vlm_backbones.data.conversations import Example, ImageSource

__all__ = ["SOURCES", "make_examples"]


@dataclass(frozen=True)
class Source:
    """A part of the mix; the last three are averages, of a conversation's turns and of their tokens."""

    examples: int
    turns: float
    question: float
    answer: float
    pictured: bool = True


SOURCES = {
    "conversation": Source(58_000, 3.5, 12, 30),
    "description": Source(23_000, 1, 12, 110),
    "reasoning": Source(77_000, 1, 20, 110),
    "coco, short answers": Source(206_100, 4, 14, 4),
    "vg": Source(86_417, 10, 14, 6),
    "gqa": Source(72_140, 10, 12, 1),
    "ocr_vqa": Source(80_000, 5, 10, 5),
    "textvqa": Source(21_953, 1, 25, 12),
    "text alone": Source(40_688, 4, 40, 220, pictured=False),
}
_SPREAD = 0.6
"""Deviation of a length's logarithm."""
_PICTURES = 16


def make_examples(count: int, words: Sequence[str], *, seed: int = 0) -> list[Example]:
    """Return so many conversations over these words, the same for the same seed; a length counts words."""
    from vlm_backbones.data.conversations import Example, Turn

    random = np.random.default_rng(seed)
    pictures = [_picture(random, number) for number in range(_PICTURES)]
    ends = np.cumsum([source.examples for source in SOURCES.values()])
    parts = np.diff(np.round(count * ends / ends[-1]).astype(int), prepend=0)
    chosen = random.permutation(np.repeat(list(SOURCES), parts))

    def text(average: float) -> str:
        length = average * random.lognormal(-(_SPREAD**2) / 2, _SPREAD)
        return " ".join(random.choice(words, size=max(1, round(length))))

    examples = []
    for index, name in enumerate(chosen):
        source, place = SOURCES[name], f"{name}, row {index}"
        turns = [
            Turn(text(source.question), text(source.answer), place) for _ in range(1 + random.poisson(source.turns - 1))
        ]
        image = pictures[index % _PICTURES] if source.pictured else None
        examples.append(Example(str(index), image, tuple(turns), independent=False))
    return examples


def _picture(random: np.random.Generator, number: int) -> ImageSource:
    """Return a JPEG of COCO's usual size."""
    from PIL import Image

    from vlm_backbones.data.conversations import ImageSource

    tiles = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(tiles).resize((640, 480)).save(stream, "JPEG")
    return ImageSource(f"picture {number}", stream.getvalue())

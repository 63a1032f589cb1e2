"""Which shape and colour marks which region: the rules of ViP-LLaVA's training files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlm_backbones.data.visual_prompts import COLORS, SHAPES, Color, Region, words_of

__all__ = ["Mark", "Plan", "allowed_shapes", "marks_of_one_color", "marks_told_apart", "pick"]


@dataclass(frozen=True)
class Mark:
    """A shape in a colour."""

    shape: str
    color: Color

    def words(self, *, the: bool = True) -> str:
        """Return "within the red rectangle"."""
        return words_of(self.shape, self.color, the=the)


@dataclass(frozen=True)
class Plan:
    """What a region record becomes: each region's mark, and (question, answer) turns."""

    regions: list[Region]
    marks: list[Mark]
    turns: list[tuple[str, str]]


def pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    """Return one of several wordings."""
    return choices[int(rng.integers(len(choices)))]


def allowed_shapes(regions: Sequence[Region], shapes: Sequence[str] = tuple(SHAPES)) -> list[list[str]]:
    """Return the shapes that each region can have: without a mask all but a point."""
    return [[shape for shape in shapes if region.polygons or shape != "point"] for region in regions]


def named_color(rng: np.random.Generator, but: Sequence[str | None] = ()) -> Color | None:
    """Return a named colour that is not taken; None where all are."""
    left = [name for name in COLORS if name not in but]
    return Color(COLORS[name := left[int(rng.integers(len(left)))]], name) if left else None


def random_color(rng: np.random.Generator) -> Color:
    """Return a colour without a name, each channel uniform."""
    red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return Color((red, green, blue))


def maybe_named(rng: np.random.Generator) -> Color:
    """Return a named colour or, as often, one without a name."""
    return (named_color(rng) if rng.random() < 0.5 else None) or random_color(rng)


def marks_told_apart(allowed: Sequence[Sequence[str]], rng: np.random.Generator) -> list[Mark]:
    """Return a mark for each region, given the shapes allowed for it (VCR, Flickr30k, Visual7W).

    Shapes are drawn with replacement. Regions of one shape get different named colours, after nine random ones without
    a name; a shape that is used once is named in half of the cases.
    """
    shapes = [one[int(rng.integers(len(one)))] for one in allowed]
    often = Counter(shapes)
    taken: dict[str, list[str | None]] = {shape: [] for shape in shapes}
    marks = []
    for shape in shapes:
        if often[shape] > 1:
            color = named_color(rng, taken[shape]) or random_color(rng)
            taken[shape].append(color.name)
        else:
            color = maybe_named(rng)
        marks.append(Mark(shape, color))
    return marks


def marks_of_one_color(allowed: Sequence[Sequence[str]], rng: np.random.Generator, *, pair: bool) -> list[Mark]:
    """Return a mark for each region, all of one colour (RefCOCOg, Visual Genome).

    A `pair` of two equal shapes gets two different named colours; else the first region's colour serves all, as in the
    published code, so that a pair of different shapes has one colour name.
    """
    shapes = [one[int(rng.integers(len(one)))] for one in allowed]
    if pair and len(set(shapes)) == 1:
        marks: list[Mark] = []
        for shape in shapes:
            color = named_color(rng, [mark.color.name for mark in marks]) or random_color(rng)
            marks.append(Mark(shape, color))
        return marks
    color = maybe_named(rng)
    return [Mark(shape, color) for shape in shapes]

"""Questions on scenes: eight types, two wordings each, exactly one true answer, answers balanced within a type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from vlm_backbones.pocket.scenes import COLOURS, GRID, SHAPES, SIZES, SceneObject, article

__all__ = ["QUESTION_TYPES", "SceneQuestion", "candidate_questions", "pick_questions", "unique_phrases"]

QUESTION_TYPES = ("colour", "compare", "count", "exist", "position", "relation", "shape", "size")
_YES_NO = ("yes", "no")
_QUARTERS = ("top left", "top right", "bottom left", "bottom right")
_MAX_COUNT = 4


@dataclass(frozen=True)
class SceneQuestion:
    """One question: two wordings, its only true answer, and the closed set of options (empty if open)."""

    question_type: str
    question: str
    paraphrase: str
    answer: str
    options: tuple[str, ...]


def _phrases(item: SceneObject) -> list[tuple[str, frozenset[str]]]:
    """Return the ways to name an object: the phrase and the attributes that it states."""
    size, colour, shape = item.attributes
    return [
        (shape, frozenset({shape})),
        (f"{colour} {shape}", frozenset({colour, shape})),
        (f"{size} {shape}", frozenset({size, shape})),
        (f"{size} {colour} {shape}", frozenset({size, colour, shape})),
        (f"{colour} object", frozenset({colour})),
        (f"{size} {colour} object", frozenset({size, colour})),
    ]


def unique_phrases(objects: list[SceneObject]) -> list[tuple[SceneObject, str, frozenset[str]]]:
    """Return the (object, phrase, stated attributes) in which the phrase fits that object only."""
    found = []
    for item in objects:
        for phrase, stated in _phrases(item):
            if sum(stated <= set(other.attributes) for other in objects) == 1:
                found.append((item, phrase, stated))
    return found


def _attribute_questions(objects: list[SceneObject]) -> list[SceneQuestion]:
    made = []
    for item, phrase, stated in unique_phrases(objects):
        if item.colour not in stated:
            made.append(SceneQuestion("colour", f"What colour is the {phrase}?", f"Which colour has the {phrase}?",
                                      item.colour, tuple(COLOURS)))  # fmt: skip
        if item.shape not in stated:
            made.append(SceneQuestion("shape", f"What shape is the {phrase}?", f"Which shape has the {phrase}?",
                                      item.shape, SHAPES))  # fmt: skip
        if item.size not in stated:
            made.append(SceneQuestion("size", f"How big is the {phrase}?", f"What size has the {phrase}?",
                                      item.size, SIZES))  # fmt: skip
        vertical = "top" if item.row < GRID // 2 else "bottom"
        horizontal = "left" if item.column < GRID // 2 else "right"
        made.append(SceneQuestion("position", f"Where is the {phrase}?", f"In which quarter is the {phrase}?",
                                  f"{vertical} {horizontal}", _QUARTERS))  # fmt: skip
    return made


def _relation_questions(objects: list[SceneObject]) -> list[SceneQuestion]:
    shortest: dict[SceneObject, str] = {}
    for item, phrase, _ in unique_phrases(objects):
        shortest.setdefault(item, phrase)
    made = []
    for first, first_phrase in shortest.items():
        for second, second_phrase in shortest.items():
            if first is second:
                continue
            if first.column != second.column:
                made.append(SceneQuestion(
                    "relation", f"Is the {first_phrase} left of the {second_phrase}?",
                    f"Is the {first_phrase} further left than the {second_phrase}?",
                    "yes" if first.column < second.column else "no", _YES_NO))  # fmt: skip
            if first.row != second.row:
                made.append(SceneQuestion(
                    "relation", f"Is the {first_phrase} above the {second_phrase}?",
                    f"Is the {first_phrase} higher up than the {second_phrase}?",
                    "yes" if first.row < second.row else "no", _YES_NO))  # fmt: skip
    return made


def _counting_questions(objects: list[SceneObject]) -> list[SceneQuestion]:
    numbers = tuple(str(number) for number in range(_MAX_COUNT + 1))
    counts = {shape: sum(item.shape == shape for item in objects) for shape in SHAPES}
    colour_counts = {colour: sum(item.colour == colour for item in objects) for colour in COLOURS}
    named = {f"{shape}s": count for shape, count in counts.items()}
    named |= {f"{colour} objects": count for colour, count in colour_counts.items()}
    made = [
        SceneQuestion("count", f"How many {name} are there?", f"What is the number of {name}?", str(count), numbers)
        for name, count in named.items()
        if count <= _MAX_COUNT
    ]
    for group in (counts, colour_counts):
        suffix = "s" if group is counts else " objects"
        for first, first_count in group.items():
            for second, second_count in group.items():
                if first == second or first_count == second_count:
                    continue
                made.append(SceneQuestion(
                    "compare", f"Are there more {first}{suffix} than {second}{suffix}?",
                    f"Do the {first}{suffix} outnumber the {second}{suffix}?",
                    "yes" if first_count > second_count else "no", _YES_NO))  # fmt: skip
    return made


def _existence_questions(objects: list[SceneObject], rng: np.random.Generator) -> list[SceneQuestion]:
    present = {(item.colour, item.shape) for item in objects}
    colours, shapes = {colour for colour, _ in present}, {shape for _, shape in present}
    made = []
    for colour in COLOURS:
        for shape in SHAPES:
            there = (colour, shape) in present
            # An absent pair of a present colour and a present shape is the hard case: keep only those, mostly.
            if not there and not (colour in colours and shape in shapes) and rng.random() < 0.9:
                continue
            made.append(SceneQuestion("exist", f"Is there {article(colour)} {colour} {shape}?",
                                      f"Does {article(colour)} {colour} {shape} appear?",
                                      "yes" if there else "no", _YES_NO))  # fmt: skip
    return made


def candidate_questions(objects: list[SceneObject], rng: np.random.Generator) -> dict[str, list[SceneQuestion]]:
    """Return every question that a scene allows, by type; each has exactly one true answer."""
    grouped: dict[str, list[SceneQuestion]] = {name: [] for name in QUESTION_TYPES}
    for question in (
        *_attribute_questions(objects),
        *_relation_questions(objects),
        *_counting_questions(objects),
        *_existence_questions(objects, rng),
    ):
        grouped[question.question_type].append(question)
    return grouped


def pick_questions(
    objects: list[SceneObject],
    count: int,
    seen: Counter[tuple[str, str]],
    rng: np.random.Generator,
    *,
    types: Collection[str] = QUESTION_TYPES,
) -> list[SceneQuestion]:
    """Choose `count` questions of different types, preferring the answers that were rarest so far.

    Parameters
    ----------
    seen
        Counts of (question_type, answer) over the split so far; updated here. Choosing the rarest
        answer balances the answers within a type.
    types
        The types to choose from.
    """
    grouped = candidate_questions(objects, rng)
    possible = [name for name in QUESTION_TYPES if name in types and grouped[name]]
    by_rarity = sorted(possible, key=lambda name: (sum(seen[name, a] for a in _answers(name)), rng.random()))
    picked = []
    for name in by_rarity[:count]:
        candidates = grouped[name]
        rarest = min(seen[name, question.answer] for question in candidates)
        rare = [question for question in candidates if seen[name, question.answer] == rarest]
        question = rare[int(rng.integers(len(rare)))]
        seen[name, question.answer] += 1
        picked.append(question)
    return picked


def _answers(question_type: str) -> tuple[str, ...]:
    closed: dict[str, tuple[str, ...]] = {
        "colour": tuple(COLOURS),
        "shape": SHAPES,
        "size": SIZES,
        "position": _QUARTERS,
        "count": tuple(str(number) for number in range(_MAX_COUNT + 1)),
    }
    return closed.get(question_type, _YES_NO)

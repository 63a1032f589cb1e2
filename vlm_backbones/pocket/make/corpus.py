"""The text that pocket backbones are pretrained on: facts or a text picture, then questions and answers.

A text picture writes a scene as sixteen Braille letters, one a cell, in raster order: what an emoji
drawing is to a large LLM. A located picture names each object's row and column before its letter.
Every question stands alone: it sees the facts and itself only.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np

from vlm_backbones.pocket.datasets import map_targets
from vlm_backbones.pocket.events import FRAMES, Event
from vlm_backbones.pocket.questions import SceneQuestion, candidate_questions, pick_questions, unique_phrases
from vlm_backbones.pocket.scenes import COLOURS, GRID, SHAPES, SIZES, SceneObject, caption, sample_scene
from vlm_backbones.prompts import (
    caption_prompt,
    cell_turn,
    coordinates_answer,
    coordinates_prompt,
    description_prompt,
    description_sentence,
    short_questions,
    vqa_prompt,
)

__all__ = ["PICTURE_LETTERS", "Passage", "sample_passage", "vocabulary_texts"]

_SCENE_SHARE = 0.62
_TURNS_A_SCENE = 8
_EMPTY = "\u2800"
_LEAD = "\u28ff"  # opens a text picture, as the class token opens the image tokens
_LETTER_OF = {
    attributes: chr(0x2801 + index) for index, attributes in enumerate(itertools.product(SIZES, COLOURS, SHAPES))
}
PICTURE_LETTERS = (_LEAD, _EMPTY, *_LETTER_OF.values())


@dataclass(frozen=True)
class Passage:
    """Facts, and the (question, answer) turns on them, each independent of the others."""

    facts: str
    turns: tuple[tuple[str, str], ...]


def text_picture(objects: list[SceneObject]) -> str:
    """Return a scene as a lead and sixteen Braille letters, one a cell."""
    cells = [_EMPTY] * (GRID * GRID)
    for item in objects:
        cells[item.row * GRID + item.column] = _LETTER_OF[item.attributes]
    return _LEAD + "".join(cells)


def located_picture(objects: list[SceneObject], rng: np.random.Generator) -> str:
    """Return a scene as its objects' letters in any order, each behind its row and column, such as "13⠯"."""
    order = rng.permutation(len(objects))
    chosen = [objects[int(index)] for index in order]
    return "".join(f"{item.row + 1}{item.column + 1}{_LETTER_OF[item.attributes]}" for item in chosen)


def _scene(seen: Counter[tuple[str, str]], rng: np.random.Generator, phase: str) -> Passage:
    objects = sample_scene(rng)
    text = caption(objects)
    if phase == "cells":
        turns = _turns(pick_questions(objects, _TURNS_A_SCENE - 3, seen, rng), rng) + _place_turns(objects, rng)
        return Passage(located_picture(objects, rng), tuple(turns))
    turns = _turns(pick_questions(objects, _TURNS_A_SCENE, seen, rng), rng)
    if rng.random() < 0.25:
        return Passage(text, tuple(turns))
    picture = text_picture(objects) if phase == "pictures" else located_picture(objects, rng)
    return Passage(picture, (*turns, (caption_prompt(), text)))


def _turns(questions: list[SceneQuestion], rng: np.random.Generator) -> list[tuple[str, str]]:
    return [(vqa_prompt(_wording(question, rng)), question.answer) for question in questions]


def _place_turns(objects: list[SceneObject], rng: np.random.Generator) -> list[tuple[str, str]]:
    """Return three turns each on an object's cell, its quarter, and two objects' relation, as far as there are some."""
    grouped = candidate_questions(objects, rng)
    chosen = [
        grouped[name][int(index)]
        for name in ("position", "relation")
        for index in rng.permutation(len(grouped[name]))[:3]
    ]
    named = unique_phrases(objects)
    cells = [named[int(index)] for index in rng.permutation(len(named))[:3]]
    return _turns(chosen, rng) + [cell_turn(phrase, item.row + 1, item.column + 1) for item, phrase, _ in cells]


def _wording(question: SceneQuestion, rng: np.random.Generator) -> str:
    return question.paraphrase if rng.random() < 0.2 else question.question


def _map(rng: np.random.Generator) -> Passage:
    frame = FRAMES[int(rng.integers(len(FRAMES)))]
    north, east = (round(float(value), 1) for value in rng.uniform(0.2, 7.8, size=2))
    depth_km, magnitude = round(float(rng.exponential(60.0)) % 600 + 5), round(float(rng.uniform(5.5, 8.0)), 1)
    event = Event("text", round(frame.south + north, 1), round(frame.west + east, 1), depth_km, magnitude)
    targets = map_targets(event, frame)
    stated = {name: targets[name] for name in ("magnitude", "depth_km", "region", "quadrant", "max_intensity")}
    facts = [f"{frame.name}", f"M{magnitude}", f"{depth_km} km", f"intensity {targets['max_intensity']}"]
    absolute = rng.random() < 0.5
    place = f"lat {event.latitude} lon {event.longitude}" if absolute else f"star {north} north {east} east"
    facts.append(f"{place}, {targets['quadrant']}" if rng.random() < 0.5 else place)
    order = rng.permutation(len(facts))
    turns = [
        (description_prompt(), description_sentence(**stated)),
        (coordinates_prompt(), coordinates_answer(event.latitude, event.longitude)),
        *short_questions(stated),
    ]
    return Passage(", ".join(facts[int(index)] for index in order), tuple(turns))


def sample_passage(seen: Counter[tuple[str, str]], rng: np.random.Generator, *, phase: str = "pictures") -> Passage:
    """Draw one passage.

    Parameters
    ----------
    seen
        Balances the answers of a batch's scene questions; updated.
    phase
        "pictures": scenes as whole text pictures; "located": as letters behind their cells; "cells": likewise, and
        most questions ask where things are.
    """
    return _scene(seen, rng, phase) if rng.random() < _SCENE_SHARE else _map(rng)


def vocabulary_texts(count: int, seed: int) -> list[str]:
    """Return texts to train a tokenizer on: passages, and every whole number below 1,000."""
    rng, seen = np.random.default_rng(seed), Counter[tuple[str, str]]()
    texts = []
    for _ in range(count):
        passage = sample_passage(seen, rng)
        turns = [f"{question} ASSISTANT: {answer}\nassistant\n{answer}" for question, answer in passage.turns]
        texts.append("\n".join([f"USER: {passage.facts}\nuser", *turns]))
    numbers = [f"{number:0{digits}d}" for digits in (1, 2, 3) for number in range(10**digits)]
    return texts + numbers * 30

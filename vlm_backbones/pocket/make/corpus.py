"""What pocket backbones are pretrained on: facts as text or as a table, then questions and answers.

A table has sixteen cells as an image has sixteen patches. A cell is one position that holds several words at once
(their embeddings summed), the cell's row and column among them, such as {"b", "3", " large", " red", " circle"}:
one token says what stands where, as a patch does. No picture is seen. Every question stands alone: it sees the
facts and itself only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from vlm_backbones.pocket.datasets import map_targets
from vlm_backbones.pocket.events import FRAMES, Event
from vlm_backbones.pocket.make.map_table import map_table
from vlm_backbones.pocket.questions import QUESTION_TYPES, SceneQuestion, pick_questions
from vlm_backbones.pocket.scenes import GRID, caption, sample_scene
from vlm_backbones.prompts import (
    caption_prompt,
    coordinates_answer,
    coordinates_prompt,
    description_prompt,
    description_sentence,
    short_questions,
    vqa_prompt,
)

__all__ = ["Passage", "sample_passage", "vocabulary_texts"]

_SCENE_SHARE = 0.62
_LOOKING_UP = 0.3
"""The first share of training asks only what stands in one cell, of few objects, then more: the rest builds on it."""
_LOOKED_UP: tuple[str, ...] = ("colour", "position", "shape", "size")
_PLACES: tuple[str, ...] = ("position", "relation")
_OTHERS = tuple(name for name in QUESTION_TYPES if name not in _PLACES)
_SCENE_TABLE_SHARE, _MAP_TABLE_SHARE = 0.75, 0.5

Cells = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Passage:
    """Facts, as text or as a table of cells, and the (question, answer) turns on them, each independent."""

    facts: str
    table: Cells
    turns: tuple[tuple[str, str], ...]


def _table(lead: str, contents: dict[int, tuple[str, ...]]) -> Cells:
    """Return the lead, which stands for the class token, and sixteen cells in raster order."""
    places = [("abcd"[cell // GRID], "1234"[cell % GRID]) for cell in range(GRID * GRID)]
    return ((lead,), *(place + contents.get(cell, ()) for cell, place in enumerate(places)))


def _scene(seen: Counter[tuple[str, str]], rng: np.random.Generator, progress: float) -> Passage:
    objects = sample_scene(rng)
    if progress < _LOOKING_UP:
        objects = objects[: 2 + int(5 * progress / _LOOKING_UP)]
        asked: list[tuple[str, ...]] = [_LOOKED_UP] * 6
    else:
        asked = [QUESTION_TYPES] * 3 if progress < 1 else [_PLACES] * 4 + [_OTHERS]
    picked = [question for types in asked for question in pick_questions(objects, len(types), seen, rng, types=types)]
    turns = [(vqa_prompt(_wording(question, rng)), question.answer) for question in dict.fromkeys(picked)]
    text = caption(objects)
    if rng.random() >= _SCENE_TABLE_SHARE:
        return Passage(text, (), tuple(turns))
    cells = {item.row * GRID + item.column: tuple(f" {word}" for word in item.attributes) for item in objects}
    return Passage("", _table(" picture", cells), (*turns, (caption_prompt(), text)))


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
    turns = [(description_prompt(), description_sentence(**stated)), *short_questions(stated)]
    if rng.random() < _MAP_TABLE_SHARE:
        words = {cell: f" {value}" if value[0].isalpha() else value for cell, value in map_table(targets).items()}
        cells: dict[int, tuple[str, ...]] = {cell: (word,) for cell, word in words.items()}
        return Passage("", _table(" earthquake", cells), tuple(turns))
    turns.append((coordinates_prompt(), coordinates_answer(event.latitude, event.longitude)))
    return Passage(", ".join(facts[int(index)] for index in order), (), tuple(turns))


def sample_passage(seen: Counter[tuple[str, str]], rng: np.random.Generator, *, progress: float) -> Passage:
    """Draw one passage.

    Parameters
    ----------
    seen
        Balances the answers of a batch's scene questions; updated.
    progress
        The share of the first stage that is over, 0 to 1; from 1 on, in the second stage, most scene questions ask
        where things are.
    """
    return _scene(seen, rng, progress) if rng.random() < _SCENE_SHARE else _map(rng)


def vocabulary_texts(count: int, seed: int) -> list[str]:
    """Return texts to train a tokenizer on: passages, and every whole number below 1,000."""
    rng, seen = np.random.default_rng(seed), Counter[tuple[str, str]]()
    texts = []
    for _ in range(count):
        passage = sample_passage(seen, rng, progress=0.99)
        turns = [f"{question} ASSISTANT: {answer}\nassistant\n{answer}" for question, answer in passage.turns]
        texts.append("\n".join([f"USER: {passage.facts}\nuser", *turns]))
    numbers = [f"{number:0{digits}d}" for digits in (1, 2, 3) for number in range(10**digits)]
    return texts + numbers * 30

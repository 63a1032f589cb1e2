"""VCR records: a question, its answer, and why; objects in the text are numbers that become words for their marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vlm_backbones.data import _region_words as words
from vlm_backbones.data._region_marks import Mark, Plan, allowed_shapes, marks_told_apart, pick
from vlm_backbones.data.visual_prompts import SHAPES, Region
from vlm_backbones.errors import DataError

__all__ = ["plan_vcr"]

Tokens = list[str | list[int]]
_SHAPES = tuple(shape for shape in SHAPES if shape != "point")
_CLOSING = frozenset(".,?!:;")


class _Meta(BaseModel):
    """The file of one VCR picture: boxes with a fifth number, and polygons of points an object."""

    model_config = ConfigDict(frozen=True)

    boxes: list[Annotated[list[float], Field(min_length=4)]]
    segms: list[list[list[tuple[float, float]]]]


class _Vcr(BaseModel):
    model_config = ConfigDict(frozen=True)

    question: Tokens
    answer_choices: Annotated[list[Tokens], Field(min_length=1)]
    rationale_choices: Annotated[list[Tokens], Field(min_length=1)]
    answer_label: Annotated[int, Field(ge=0)]
    rationale_label: Annotated[int, Field(ge=0)]
    class_names: list[str]
    meta: _Meta

    @model_validator(mode="after")
    def _labels_are_choices(self) -> _Vcr:
        for name, choices in (("answer_label", self.answer_choices), ("rationale_label", self.rationale_choices)):
            if getattr(self, name) >= len(choices):
                raise ValueError(f"{name} {getattr(self, name)} is none of {len(choices)} choices")
        return self


def plan_vcr(row: Mapping[str, Any], rng: np.random.Generator) -> Plan:
    """Ask the question, then why; each is multiple choice in half of the cases."""
    if "meta" not in row:
        raise DataError("a VCR record needs the file that meta_dir names: give its content as vcr_meta.")
    record = _Vcr.model_validate(row)
    open_answer, open_why = rng.random(2) < 0.5
    answers = [record.answer_choices[record.answer_label]] if open_answer else record.answer_choices
    reasons = [record.rationale_choices[record.rationale_label]] if open_why else record.rationale_choices
    mentioned = _objects([record.question, *answers, *reasons])
    regions = [_region(record, index) for index in mentioned]
    marks = marks_told_apart(allowed_shapes(regions, _SHAPES), rng)
    by_object = dict(zip(mentioned, marks, strict=True))

    def said(tokens: Tokens) -> str:
        return _sentence(tokens, by_object, record.class_names, rng)

    question = pick(words.VCR_OPENINGS, rng) + said(record.question)
    turns = [
        _turn(question, [said(one) for one in answers], 0 if open_answer else record.answer_label, rng),
        _turn(pick(words.VCR_WHY, rng), [said(one) for one in reasons], 0 if open_why else record.rationale_label, rng),
    ]
    return Plan(regions, marks, turns)


def _objects(texts: Sequence[Tokens]) -> list[int]:
    return sorted({index for text in texts for token in text if isinstance(token, list) for index in token})


def _region(record: _Vcr, index: int) -> Region:
    meta, known = record.meta, min(len(record.meta.boxes), len(record.meta.segms), len(record.class_names))
    if not 0 <= index < known:
        raise DataError(f"the text names object {index}, of {known} objects in the meta file and class_names.")
    x1, y1, x2, y2 = meta.boxes[index][:4]
    polygons = tuple(tuple(value for point in one for value in point) for one in meta.segms[index] if len(one) >= 4)
    return Region((x1, y1, x2, y2), polygons)


def _sentence(tokens: Tokens, marks: Mapping[int, Mark], names: Sequence[str], rng: np.random.Generator) -> str:
    """Join the words; an object is named by its class, or as often only as an object, and by its mark."""
    out = ""
    for token in tokens:
        if isinstance(token, str):
            out += token if not out or token in _CLOSING else f" {token}"
            continue
        for place, index in enumerate(token):
            name = pick(("object", "instance"), rng) if rng.random() < 0.5 else names[index]
            mark = marks[index].words(the=bool(rng.random() < 0.5))
            article = "The" if not out else " and the" if place else " the"
            out += f"{article} {name} {mark}"
    return out


def _turn(question: str, choices: Sequence[str], label: int, rng: np.random.Generator) -> tuple[str, str]:
    if len(choices) == 1:
        return question, choices[0]
    letter = f"({chr(ord('A') + label)})"
    answer = letter if rng.random() < 0.5 else f"{letter} {choices[label]}"
    return question + pick(words.VCR_OPTIONS, rng) + words.lettered(choices), answer

"""What each kind of region record asks for: regions, their marks, and the turns of the conversation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vlm_backbones.data import _region_words as words
from vlm_backbones.data._region_marks import Mark, Plan, allowed_shapes, marks_of_one_color, marks_told_apart, pick
from vlm_backbones.data._vcr_plan import plan_vcr
from vlm_backbones.data.visual_prompts import COLORS, Color, Region
from vlm_backbones.errors import DataError

__all__ = ["PLANS", "Plan"]

Box = tuple[float, float, float, float]
_FLICKR_TAG = re.compile(r" ?<bbox(\d+)>")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: str


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)

    speaker: Annotated[Literal["human", "gpt"], Field(alias="from")]
    value: str


class _Described(_Record):
    """RefCOCOg and Visual Genome: a short answer, or the stored conversation of the gpt4v rows."""

    bboxes: Annotated[list[Box], Field(min_length=1)]
    segmentations: list[list[list[float]] | None] | None = None
    answer: str | None = None
    conversations: list[_Message] | None = None

    @model_validator(mode="after")
    def _whole(self) -> _Described:
        if self.segmentations is not None and len(self.segmentations) != len(self.bboxes):
            raise ValueError(f"{len(self.segmentations)} segmentations for {len(self.bboxes)} boxes")
        if self.stored and (not self.conversations or len(self.conversations) % 2):
            raise ValueError("a gpt4v record needs conversations, a question and an answer a turn")
        if not self.stored and not self.answer:
            raise ValueError("the record has no answer")
        return self

    @property
    def stored(self) -> bool:
        return self.id.split("-")[1:2] == ["gpt4v"]

    def regions(self) -> list[Region]:
        masks = self.segmentations or [None] * len(self.bboxes)
        return [Region(box, tuple(map(tuple, mask or ()))) for box, mask in zip(self.bboxes, masks, strict=True)]

    def stored_turns(self, replaced: Mapping[str, str]) -> list[tuple[str, str]]:
        texts = [message.value for message in self.conversations or []]
        for tag, said in replaced.items():
            texts = [text.replace(tag, said) for text in texts]
        return list(zip(texts[::2], texts[1::2], strict=True))


def _plan_refcocog(row: Mapping[str, Any], rng: np.random.Generator) -> Plan:
    record = _Described.model_validate(row)
    regions = record.regions()
    marks = marks_of_one_color(allowed_shapes(regions), rng, pair=False)
    if record.stored:
        return Plan(regions, marks, record.stored_turns({"<bbox>": marks[0].words()}))
    asked = pick(words.ANY_OBJECT, rng) if rng.random() < 0.25 else words.ONE_OBJECT
    return Plan(regions, marks, [(asked + words.SHORT_PHRASE, str(record.answer))])


def _plan_relation(row: Mapping[str, Any], rng: np.random.Generator) -> Plan:
    record = _Described.model_validate({**row, "segmentations": None})
    if len(record.bboxes) != 2:
        raise DataError(f"bboxes has {len(record.bboxes)} boxes: a relation has a subject and an object.")
    regions = record.regions()
    marks = marks_of_one_color(allowed_shapes(regions, ("rectangle", "ellipse")), rng, pair=True)
    if record.stored:
        said = {f"<bbox{place}>": mark.words(the=bool(rng.random() < 0.5)) for place, mark in enumerate(marks)}
        return Plan(regions, marks, record.stored_turns(said))
    asked = words.RELATION.format(*(mark.words() for mark in marks))
    return Plan(regions, marks, [(asked, str(record.answer))])


class _Flickr(_Record):
    bbox: Annotated[list[Annotated[list[Box], Field(min_length=1)]], Field(min_length=1)]
    grounding: Annotated[str, Field(min_length=1)]


def _plan_flickr(row: Mapping[str, Any], rng: np.random.Generator) -> Plan:
    """Ask for a caption of the marked objects; every box of a tag has the tag's mark."""
    record = _Flickr.model_validate(row)
    marks = marks_told_apart([("rectangle", "ellipse", "arrow")] * len(record.bbox), rng)
    name_marks = bool(rng.random() < 0.5)
    question = pick(words.FLICKR_QUESTIONS[name_marks], rng)
    if rng.random() < 0.5:
        shown = [" ".join(part for part in (mark.color.name, mark.shape) if part) for mark in marks]
        question += f"{words.FLICKR_HINT}{_listed(shown)}."

    def said(match: re.Match[str]) -> str:
        place = int(match[1])
        if place >= len(marks):
            raise DataError(f"grounding names {match[0].strip()}, but bbox has {len(marks)} entries.")
        return f" {marks[place].words()}" if name_marks else ""

    caption = _FLICKR_TAG.sub(said, record.grounding).strip()
    caption = caption[:1].upper() + caption[1:] + ("" if caption.endswith((".", "!", "?")) else ".")
    boxes = [(box, mark) for tag, mark in zip(record.bbox, marks, strict=True) for box in tag]
    return Plan([Region(box) for box, _ in boxes], [mark for _, mark in boxes], [(question, caption)])


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


class _WhichBox(_Record):
    question: Annotated[str, Field(min_length=1)]
    bboxes: Annotated[list[Box], Field(min_length=4, max_length=4)]
    answer: Box

    @model_validator(mode="after")
    def _answer_is_a_box(self) -> _WhichBox:
        if self.answer not in self.bboxes:
            raise ValueError(f"the answer {list(self.answer)} is none of the four boxes")
        return self


def _plan_visual7w(row: Mapping[str, Any], rng: np.random.Generator) -> Plan:
    """Ask which of four rectangles answers the question; a letter is the answer."""
    record = _WhichBox.model_validate(row)
    marks = marks_told_apart([("rectangle",)] * 4, rng)
    options = [f"The object {mark.words(the=bool(rng.random() < 0.5))}" for mark in marks]
    letter = "ABCD"[record.bboxes.index(record.answer)]
    return Plan([Region(box) for box in record.bboxes], marks, [(words.which_box(record.question, options), letter)])


class _CountAlike(_Record):
    bboxes: Annotated[list[Box], Field(min_length=1, max_length=1)]
    general_question: Annotated[str, Field(min_length=1)]
    answer: Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)]


def _plan_pointqa(row: Mapping[str, Any], rng: np.random.Generator) -> Plan:
    record = _CountAlike.model_validate(row)
    mark = Mark("rectangle", Color(COLORS["red"], "red"))
    return Plan([Region(record.bboxes[0])], [mark], [(words.with_example(record.general_question), record.answer)])


PLANS: dict[str, Callable[[Mapping[str, Any], np.random.Generator], Plan]] = {
    "refcocog": _plan_refcocog,
    "vg_rel": _plan_relation,
    "vcr": plan_vcr,
    "flickr30k": _plan_flickr,
    "v7w": _plan_visual7w,
    "pointQA_twice": _plan_pointqa,
}
"""The id's prefix -> what such a record asks for."""

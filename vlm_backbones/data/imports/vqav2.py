"""The official VQAv2 files -> the dataset of `vqa_scene`.

SOURCE holds the questions and the annotations as they are downloaded, and the folder of COCO pictures:

    v2_OpenEnded_mscoco_val2014_questions.json
    v2_mscoco_val2014_annotations.json
    val2014/COCO_val2014_000000000042.jpg
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.imports.tables import picture_of
from vlm_backbones.data.imports.write import refuse_existing, save_split
from vlm_backbones.errors import DataError
from vlm_backbones.json_text import parse_json

__all__ = ["import_vqav2"]

_KINDS = {
    "image": "image", "question": "text", "answers": "texts", "options": "texts", "question_type": "text",
    "image_id": "text", "question_id": "text", "targets": "text",
}  # fmt: skip
_SUFFIXES = (".jpg", ".jpeg", ".png")
Kind = TypeVar("Kind", bound=BaseModel)


class _Question(BaseModel):
    question_id: int
    image_id: int
    question: Annotated[str, Field(min_length=1)]


class _Questions(BaseModel):
    questions: Annotated[list[_Question], Field(min_length=1)]
    data_subtype: str = ""


class _Answer(BaseModel):
    answer: str


class _Annotation(BaseModel):
    question_id: int
    answer_type: Literal["yes/no", "number", "other"]
    answers: Annotated[list[_Answer], Field(min_length=1, max_length=10)]


class _Annotations(BaseModel):
    annotations: list[_Annotation]


def import_vqav2(
    source: Path, out: Path, *, images: Path | None = None, split: str = "test", limit: int | None = None
) -> int:
    """Write OUT/vqa_scene/SPLIT and return its questions; the ten answers of each are kept.

    Parameters
    ----------
    source
        A folder with one *questions*.json and one *annotations*.json, official format.
    images
        The pictures' folder; default: the folder in `source` that the questions' `data_subtype` names.
    limit
        The first so many questions; each stores its picture, about 160 KB.

    Raises
    ------
    DataError
        If a file is missing or malformed, a question has no annotation, a picture is missing (all are named), or
        the folder exists.
    """
    asked = _read(_only(source, "questions"), _Questions)
    annotated = _read(_only(source, "annotations"), _Annotations)
    folder = images or source / asked.data_subtype
    if not os.path.isdir(folder) or (images is None and not _is_name(asked.data_subtype)):
        raise DataError(f"no folder {folder} with the pictures. Name it with --images.")
    target = refuse_existing(out, "vqa_scene", split)
    notes = {row.question_id: row for row in annotated.annotations}
    questions = asked.questions[:limit]
    bad, pictures = BadRows(), dict[int, str]()
    for index, question in enumerate(questions):
        with bad.gather():
            place = f"question {question.question_id} (row {index})"
            if question.question_id not in notes:
                raise DataError(f"{place} has no annotation. Both files belong to one split.")
            if question.image_id not in pictures:
                pictures[question.image_id] = _picture_name(folder, asked.data_subtype, question.image_id, place)
    bad.refuse()

    def rows() -> Iterator[dict[str, Any]]:
        for question in questions:
            place = f"question {question.question_id}"
            encoded = picture_of(pictures[question.image_id], folder, place)
            yield _row(question, notes[question.question_id], encoded)

    return save_split(target, rows(), _KINDS)


def _row(question: _Question, annotation: _Annotation, picture: bytes) -> dict[str, Any]:
    return {
        "image": {"bytes": picture, "path": None},
        "question": question.question,
        "answers": [answer.answer for answer in annotation.answers],
        "options": ["yes", "no"] if annotation.answer_type == "yes/no" else [],
        "question_type": annotation.answer_type,
        "image_id": str(question.image_id),
        "question_id": str(question.question_id),
        "targets": "{}",
    }


def _only(source: Path, word: str) -> Path:
    found = sorted(source.glob(f"*{word}*.json")) if source.is_dir() else []
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{source}: expected one *{word}*.json of VQAv2, found {names}.")
    return found[0]


def _read(path: Path, kind: type[Kind]) -> Kind:
    try:
        return kind.model_validate(parse_json(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {place} is {str(first['input'])[:60]!r}: {first['msg']}.") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}). Download it again.") from error


def _is_name(text: str) -> bool:
    """Whether a text of somebody else names a folder beside its file, and none further away."""
    return Path(text).name == text and text not in {"", ".."}


def _picture_name(folder: Path, subtype: str, image_id: int, place: str) -> str:
    number = f"{image_id:012d}"
    stems = (f"COCO_{subtype}_{number}", number, str(image_id))
    names = [stem + suffix for stem in stems for suffix in _SUFFIXES]
    found = next((name for name in names if os.path.isfile(folder / name)), None)
    if found is None:
        raise DataError(f"{place}: no picture of image {image_id} in {folder}, as {names[0]}.")
    return found

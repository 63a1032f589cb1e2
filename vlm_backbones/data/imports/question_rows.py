"""A row of a user's table -> a row of `vqa_scene`: a picture, a question, its answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_backbones.data.imports.tables import picture_of
from vlm_backbones.errors import DataError
from vlm_backbones.json_text import parse_json

__all__ = ["KINDS", "build_question"]

KINDS = {
    "image": "image", "question": "text", "answers": "texts", "options": "texts", "question_type": "text",
    "image_id": "text", "question_id": "text", "targets": "text",
}  # fmt: skip
"""The dataset's columns; `paraphrase` joins them where the table has one."""

_MOST_ANSWERS = 10


def build_question(given: Mapping[str, Any], place: str, root: Path) -> dict[str, Any]:
    """Return one row of `vqa_scene` from its cells by role.

    Raises
    ------
    DataError
        Naming `place`, where question, answers, options, targets or picture cannot be used.
    """
    picture = picture_of(given["image"], root, place)
    answers, options = texts_of(given["answers"]), texts_of(given.get("options"))
    question = _text(given["question"])
    if not question:
        raise DataError(f"{place}: the question is empty. Fill it in or drop the row.")
    if not 1 <= len(answers) <= _MOST_ANSWERS or not all(answer.strip() for answer in answers):
        raise DataError(f"{place}: the answer is {given['answers']!r}, expected a text, or a list of one to ten.")
    if any(not option.strip() for option in options):
        raise DataError(f"{place}: options is {given['options']!r}, expected a list of texts.")
    image_id = _text(given.get("image_id")) or hashlib.sha256(picture).hexdigest()[:16]
    row = {
        "image": {"bytes": picture, "path": None},
        "question": question,
        "answers": answers,
        "options": options,
        "question_type": _text(given.get("question_type")),
        "image_id": image_id,
        "question_id": _text(given.get("question_id")) or place.rpartition(" row ")[2],
        "targets": targets_of(given.get("targets"), place),
    }
    return row | ({"paraphrase": _text(given["paraphrase"]) or question} if "paraphrase" in given else {})


def texts_of(cell: Any) -> list[str]:
    """Return a cell's texts: of a list, of a list written as JSON (as in CSV), or the cell alone; none of nothing.

    Examples
    --------
    >>> texts_of('["a", "b"]'), texts_of("a"), texts_of(3), texts_of("")
    (['a', 'b'], ['a'], ['3'], [])
    """
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = parse_json(cell)
        except ValueError:
            return [cell]
    if cell is None or cell == "":
        return []
    return [str(part) for part in cell] if isinstance(cell, list) else [str(cell)]


def targets_of(cell: Any, place: str) -> str:
    """Return the column `targets` as JSON, name -> value.

    Raises
    ------
    DataError
        If it is no JSON object.
    """
    try:
        value = parse_json(cell or "{}") if isinstance(cell, str | None) else cell
    except ValueError:
        value = cell
    if not isinstance(value, dict):
        raise DataError(f"{place}: targets is {str(cell)[:60]!r}, expected a JSON object, name -> value.")
    return json.dumps(value, ensure_ascii=False)


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()

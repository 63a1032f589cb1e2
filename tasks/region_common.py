"""What the region tasks share: pictures from files, the published prompts, and matching of a whole answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_backbones.data.region_records import region_example
from vlm_backbones.data.visual_prompts import EVALUATION_ALPHA
from vlm_backbones.errors import DataError
from vlm_backbones.pictures import open_rgb
from vlm_backbones.tasks.common import Doc, answer_text, record
from vlm_backbones.tasks.region_data import evaluation_generator

__all__ = ["doc_to_marked_visual", "doc_to_text", "doc_to_visual", "process_match"]


def doc_to_visual(doc: Doc) -> list[Any]:
    """Return the picture of `image_path` in RGB, as training sees a region record's: not turned by EXIF."""
    try:
        return [open_rgb(Path(doc["image_path"]), upright=False)]
    except DataError as error:
        raise DataError(f"{doc['image_path']}: {error}") from error


def doc_to_marked_visual(doc: Doc) -> list[Any]:
    """Return the picture with the record's rectangles: alpha 128, width int(3 * longer side / 336)."""
    row = json.loads(doc["record"])
    (picture,) = doc_to_visual(doc)
    return [region_example(row, picture, evaluation_generator(row), alpha=EVALUATION_ALPHA).image]


def doc_to_text(doc: Doc) -> str:
    """Return the published prompt."""
    return str(doc["question"])


def process_match(doc: Doc, results: Sequence[Any]) -> dict[str, Any]:
    """Score 1 where the whole answer is the target, lower case and stripped at the ends; never raises."""
    answer = answer_text(results).strip().lower()
    score = float(answer == str(doc.get("answer")).lower())
    return {"accuracy": score, "backbones": record(doc, parsed=answer or None, score=score)}

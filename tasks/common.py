"""What the three tasks share: the image, the record for the analysis, and the aggregations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from vlm_backbones.json_text import parse_json
from vlm_backbones.pictures import to_rgb

__all__ = ["answer_text", "decoded_targets", "doc_to_visual", "finite_or_none", "mean", "median", "record"]

Doc = Mapping[str, Any]


def doc_to_visual(doc: Doc) -> list[Any]:
    """Return the document's image in RGB, as training sees it."""
    return [to_rgb(doc["image"])]


def answer_text(results: Sequence[Any]) -> str:
    """Return the model's answer; a list of choices counts with its first."""
    answer: Any = results[0] if results else ""
    while isinstance(answer, list | tuple):
        answer = answer[0] if answer else ""
    return "" if answer is None else str(answer)


def decoded_targets(doc: Doc) -> dict[str, Any]:
    """Return the `targets` column decoded; empty where it is missing or no JSON object."""
    try:
        targets = parse_json(doc.get("targets") or "{}")
    except (TypeError, ValueError):
        return {}
    return targets if isinstance(targets, dict) else {}


def finite_or_none(value: float) -> float | None:
    """Return the value, or None for NaN, which strict JSON readers refuse."""
    return value if math.isfinite(value) else None


def record(
    doc: Doc, *, parsed: object, score: float | None, rungs: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Return the one `backbones` entry of a logged sample.

    Keys: parsed (the answer as read, or None), score (0 to 1, None where there is none), rungs (name -> value),
    question_type, frame, targets.
    """
    return {
        "parsed": parsed,
        "score": score,
        "rungs": dict(rungs or {}),
        "question_type": doc.get("question_type"),
        "frame": doc.get("frame") or doc.get("region"),
        "targets": decoded_targets(doc),
    }


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that exist; None without any: results files are JSON, which knows no NaN."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def median(values: Sequence[float | None]) -> float | None:
    """Return the median of the values that exist; None without any."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None

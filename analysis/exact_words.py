"""Whether an answer is its target word for word: what the probability of a whole answer is the probability of."""

from __future__ import annotations

__all__ = ["exact_words", "is_graded"]

from decimal import Decimal, DecimalException
from typing import Any

import polars as pl

from vlm_backbones.analysis._computed_scores import is_coordinate_task
from vlm_backbones.analysis.options import folded
from vlm_backbones.json_text import parse_json


def is_graded(part: pl.DataFrame) -> bool:
    """Whether the samples of a task count as right from a threshold on: places, or scores between 0 and 1.

    Then an answer may be right in many wordings, and the probability of one of them says nothing of the others.
    """
    score = part["score"].drop_nulls()
    return bool(((score > 0) & (score < 1)).any()) or is_coordinate_task(part["target"])


def exact_words(part: pl.DataFrame) -> pl.Series:
    """Which answers are their target: the same text but for case, outer blanks and a final period.

    A place is its target where it equals it to the decimals that the answer has: models learn rounded places.
    """
    if is_coordinate_task(part["target"]):
        pairs = part.select(pl.col("answer", "target").cast(pl.String)).iter_rows()
        return pl.Series([_same_place(answer, target) for answer, target in pairs], dtype=pl.Boolean)
    return (folded(part["answer"]) == folded(part["target"])).fill_null(False)


def _same_place(answer: str | None, target: str) -> bool:
    try:
        said, true = (parse_json(text or "", numbers_as_text=True) for text in (answer, target))
        return all(_same_number(said[key], true[key]) for key in ("lat", "lon"))
    except (ValueError, TypeError, KeyError, DecimalException):
        return False


def _same_number(said: Any, true: Any) -> bool:
    """Whether a number equals another to its own decimals."""
    number = Decimal(said)
    return number == Decimal(true).quantize(number)

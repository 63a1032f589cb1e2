"""The confidences of one run on one task, of one kind, ready for the measures."""

from __future__ import annotations

__all__ = ["KINDS", "Confidences", "column_of", "kinds_of", "outcomes", "primary_kind", "take_confidences"]

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis.calibration_measures import log_losses
from vlm_backbones.analysis.exact_words import exact_words, is_graded
from vlm_backbones.analysis.options import Options, option_logits, softmax

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

KINDS = ("option", "sequence", "exact", "per_token")
"""`exact` is `sequence`, judged by whether the answer is its target word for word, not by the score."""


@dataclass(frozen=True)
class Confidences:
    """Documents that have a score and a confidence; `n_missing` counts the others that were logged.

    `brier` and `nll` are per document: over all options where they exist (NaN where the target is none of them), else
    of the answer's own confidence.
    """

    rows: Ints  # row numbers in the frame
    confidence: Floats
    correct: Floats
    brier: Floats
    nll: Floats
    n_missing: int
    options: Options | None
    without_target: int

    def __len__(self) -> int:
        return int(self.rows.size)


def column_of(kind: str) -> pl.Expr:
    """The confidences of a kind, null elsewhere."""
    if kind == "option":
        return pl.when(pl.col("confidence_kind") == "option").then(pl.col("confidence"))
    return pl.col("sequence_confidence" if kind == "exact" else f"{kind}_confidence")


def outcomes(part: pl.DataFrame, kind: str) -> pl.Series:
    """What the confidences of a kind are the probability of: a right answer, or one in its target's very words."""
    return exact_words(part) if kind == "exact" else part["correct"]


def kinds_of(part: pl.DataFrame) -> tuple[str, ...]:
    """The kinds that all runs of a task are judged by: `exact` too where right is a threshold and some are exact."""
    has_event = part["sequence_confidence"].count() > 0 and is_graded(part) and bool(exact_words(part).any())
    return KINDS if has_event else tuple(kind for kind in KINDS if kind != "exact")


def primary_kind(part: pl.DataFrame) -> str:
    """The kind by which runs are compared: options where they cover as much as answer probabilities do."""
    covered = {kind: part.select(column_of(kind).count()).item() for kind in ("option", "sequence")}
    if covered["option"] >= covered["sequence"]:
        return "option"
    return "exact" if "exact" in kinds_of(part) else "sequence"


def take_confidences(part: pl.DataFrame, kind: str) -> Confidences:
    """Collect the confidences of a kind from samples of one run and task."""
    needed = part.select("score", "correct", "answer", "target", column_of(kind).alias("c")).with_row_index("row")
    kept = needed.filter(pl.col("c").is_not_null() & pl.col("score").is_not_null())
    confidence, correct = kept["c"].to_numpy(), outcomes(kept, kind).cast(pl.Float64).to_numpy()
    rows = kept["row"].cast(pl.Int64).to_numpy()
    brier, nll = (confidence - correct) ** 2, log_losses(confidence, correct)
    if kind != "option":
        return Confidences(rows, confidence, correct, brier, nll, part.height - rows.size, None, 0)
    options = option_logits(part, rows.tolist())
    right = options.right
    known = right >= 0
    p = softmax(options.logits, options.count)
    hit = np.zeros_like(p)
    hit[np.flatnonzero(known), right[known]] = 1.0
    # Without a target among the options only the answer's own confidence can be judged: such documents get NaN here.
    brier = np.where(known, ((p - hit) ** 2).sum(axis=1), np.nan)
    nll = np.where(known, -np.log(np.maximum((p * hit).sum(axis=1), 1e-15)), np.nan)
    return Confidences(rows, confidence, correct, brier, nll, part.height - rows.size, options, int((~known).sum()))

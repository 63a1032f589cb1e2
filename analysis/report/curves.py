"""The numbers behind the calibration pictures: bins and risk-coverage curves with their bands."""

from __future__ import annotations

__all__ = ["ALL", "CalibrationCurves", "calibration_curves"]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis._sample_frame import where
from vlm_backbones.analysis.calibration_measures import BINS, reliability_bins
from vlm_backbones.analysis.confidences import column_of, outcomes, primary_kind
from vlm_backbones.analysis.consistency_band import consistency_band
from vlm_backbones.analysis.risk_coverage import risk_at, risk_band
from vlm_backbones.analysis.table_calibration import FEWEST

ALL = "all"
_MOST_TYPES = 8
_DRAWS = 500
_COVERAGE = np.linspace(0.02, 1, 50)


@dataclass(frozen=True)
class CalibrationCurves:
    """Curves of one task by run and question type, and the types left out with the reason."""

    kind: str
    reliability: pl.DataFrame
    risk: pl.DataFrame
    left_out: list[str]

    @property
    def question_types(self) -> list[str]:
        """`all` first, then the types that have curves."""
        return self.risk["question_type"].unique(maintain_order=True).to_list() if self.risk.height else []


def calibration_curves(part: pl.DataFrame, runs: Sequence[str], seed: int = 0) -> CalibrationCurves:
    """Compute the curves of some runs on one task under one condition.

    Reliability is about what the confidence is the probability of, risk about what counts as right.

    At most the 8 most frequent question types get curves of their own; fewer than 50 confidences give none, as in the
    table `calibration`.
    """
    kind = primary_kind(part)
    counts = part["question_type"].drop_nulls().value_counts(sort=True)
    types = counts.sort("count", "question_type", descending=[True, False])["question_type"].to_list()
    types = [name for name in types if name != ALL] if len(types) > 1 else []
    shown = [ALL, *sorted(types[:_MOST_TYPES])]
    bins: list[dict[str, Any]] = []
    risks: list[dict[str, Any]] = []
    for run in runs:
        own = where(part, run=run)
        event = outcomes(own, kind).alias("event")
        of_run = own.select("question_type", "score", "correct", "cluster", event, column_of(kind).alias("c"))
        for question_type in shown:
            asked = of_run if question_type == ALL else of_run.filter(question_type=question_type)
            place = {"run": run, "task": part["task"][0], "question_type": question_type, "confidence_kind": kind}
            for rows, into in zip(_curves(asked, np.random.default_rng(seed)), (bins, risks), strict=True):
                into.extend(place | row for row in rows)
    reliability, risk = (_frame(rows, pl.Enum(shown)) for rows in (bins, risks))
    drawn = set(risk["question_type"]) if risk.height else set()
    return CalibrationCurves(kind, reliability, risk, [name for name in types if name not in drawn])


def _frame(rows: list[dict[str, Any]], order: pl.Enum) -> pl.DataFrame:
    if not rows:
        return pl.DataFrame()
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return frame.sort(pl.col("question_type").cast(order), maintain_order=True)


def _curves(asked: pl.DataFrame, rng: np.random.Generator) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of both curves for the questions asked; none where fewer than 50 have a confidence and a score."""
    taken = asked.filter(pl.col("c").is_not_null() & pl.col("score").is_not_null())
    if taken.height < FEWEST:
        return [], []
    taken = taken.drop_nulls("correct")
    c, event, y = (taken[name].cast(pl.Float64).to_numpy() for name in ("c", "event", "correct"))
    cluster = taken["cluster"].rank("dense").cast(pl.Int64).to_numpy() - 1
    n_missing = asked.height - taken.height
    return list(_bins(c, event, n_missing, rng)), list(_risks(c, y, cluster, n_missing, rng))


def _bins(
    c: NDArray[np.float64], y: NDArray[np.float64], n_missing: int, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    edges = np.linspace(0, 1, BINS + 1)
    count, mean, accuracy = reliability_bins(c, y)
    low, high = consistency_band(c, rng)
    for i in range(BINS):
        row = {"bin": i, "low": edges[i], "high": edges[i + 1], "n": int(count[i]), "n_missing": n_missing}
        yield row | {"confidence": mean[i], "accuracy": accuracy[i], "band_low": low[i], "band_high": high[i]}


def _risks(
    c: NDArray[np.float64],
    y: NDArray[np.float64],
    cluster: NDArray[np.int64],
    n_missing: int,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    low, high = risk_band(c, y, cluster, _COVERAGE, _DRAWS, rng)
    rows = zip(_COVERAGE, risk_at(c, y, _COVERAGE), low, high, strict=True)
    for coverage, risk, risk_low, risk_high in rows:
        row = {"coverage": coverage, "risk": risk, "risk_low": risk_low, "risk_high": risk_high}
        yield row | {"n": int(c.size), "n_missing": n_missing}

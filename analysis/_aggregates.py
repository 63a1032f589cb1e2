"""Metrics that are no mean of their samples: POPE's precision, recall, F1 and yes ratio, MME's totals."""

from __future__ import annotations

__all__ = ["SumOfRatios", "aggregate_of", "is_aggregate", "is_yes_no", "shown_name", "total_names", "yes_no_value"]

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis.bootstrap import SharedBootstrap, cluster_sums

Floats = NDArray[np.float64]

_YES_NO = re.compile(r"pope_(precision|recall|f1_score|yes_ratio)$")
_TOTAL = re.compile(r"mme_(perception|cognition)_score$")


@dataclass(frozen=True)
class SumOfRatios:
    """The sum over strata of (sum of numerators) / (sum of denominators); one row a sample.

    `is_share`: it lies in 0 to 1. `note` says how it is computed, or why it is NaN.
    """

    numerator: Floats  # (samples,)
    denominator: Floats  # (samples,)
    stratum: NDArray[np.int64]  # (samples,), codes 0..S-1
    is_share: bool
    note: str

    @property
    def value(self) -> float:
        """NaN where a denominator is zero."""
        top, bottom = self._totals()
        return float((top / bottom).sum()) if bottom.size and (bottom > 0).all() else math.nan

    def _totals(self) -> tuple[Floats, Floats]:
        top, bottom = (np.bincount(self.stratum, part) for part in (self.numerator, self.denominator))
        return top.astype(np.float64), bottom.astype(np.float64)

    def drawn(self, cluster: NDArray[np.int64], resample: SharedBootstrap) -> Floats:
        """The value in each draw of clusters: (draws,)."""
        own = self.stratum[:, None] == np.arange(int(self.stratum.max(initial=-1)) + 1)  # (samples, strata)
        columns = np.hstack([own * self.numerator[:, None], own * self.denominator[:, None]])
        top, bottom = np.hsplit(resample.totals(cluster_sums(columns, cluster)), 2)
        ratio = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
        return np.asarray(ratio.sum(axis=1), dtype=np.float64)

    @property
    def pseudo_values(self) -> Floats:
        """One number a sample whose mean is the value and whose variance is the value's (linearisation), (samples,).

        Source: Särndal, Swensson & Wretman 1992, "Model Assisted Survey Sampling", section 5.5.
        """
        top, bottom = self._totals()
        ratio, scale = (top / bottom)[self.stratum], (self.stratum.size / bottom)[self.stratum]
        return self.value + scale * (self.numerator - ratio * self.denominator)


def is_yes_no(name: str) -> bool:
    """Whether lmms-eval logs each answer under this name and makes the metric of all of them."""
    return _YES_NO.search(name) is not None


def is_aggregate(name: str) -> bool:
    """Whether `aggregate_of` computes a metric of this name from the samples."""
    return is_yes_no(name) or _TOTAL.search(name) is not None


def total_names(names: Iterable[str]) -> list[str]:
    """The names that are MME's totals."""
    return [name for name in names if _TOTAL.search(name)]


def shown_name(name: str) -> str:
    """What the mean of the samples' own scores is called: not by the name of a metric that is another number."""
    return "accuracy" if is_aggregate(name) else name


def yes_no_value(name: str, logged: Any) -> float | None:
    """What a sample adds to the metric: 1 or 0, NaN where nothing (precision of an answer that is not yes).

    As in lmms-eval, an answer that is neither yes nor no is no false negative. The yes ratio is of the answers;
    lmms-eval counts the labels.
    """
    if not isinstance(logged, dict) or "prediction" not in logged or "ground_truth" not in logged:
        return None
    said, right = str(logged["prediction"]).strip().lower(), str(logged["ground_truth"]).strip().lower()
    if name.endswith("yes_ratio"):
        return float(said == "yes")
    if name.endswith("precision"):
        asked = said == "yes"
    elif name.endswith("recall"):
        asked = right == "yes"
    else:
        asked = "yes" in (said, right)
    return float(said == right == "yes") if asked and said in {"yes", "no"} else math.nan


def aggregate_of(metric: str, part: pl.DataFrame) -> SumOfRatios | None:
    """Return the metric over samples (columns value, question_type, cluster); None where it is their mean."""
    if is_yes_no(metric):
        value = part["value"].fill_null(math.nan).to_numpy()
        weight = (~np.isnan(value)).astype(float)
        hit = np.nan_to_num(value)
        # F1 = 2 TP / (2 TP + FP + FN)
        doubled = hit if metric.endswith("f1_score") else 0.0
        about = "share of the answers that are yes" if metric.endswith("yes_ratio") else "of the answer yes"
        return SumOfRatios(hit + doubled, weight + doubled, np.zeros(hit.size, dtype=np.int64), True, about)
    return _mme_total(part) if _TOTAL.search(metric) else None


def _mme_total(part: pl.DataFrame) -> SumOfRatios:
    """Sum over categories of accuracy + accuracy+ (both questions of an image right), 100 points each.

    Source: Fu et al. 2023, "MME"; `mme_aggregate_results` of lmms-eval.
    """
    images = pl.struct(pl.col("question_type", "cluster").cast(pl.String))
    rows = part.select(
        right=pl.col("value").fill_nan(None),
        asked=pl.len().over(images),
        both=pl.col("value").fill_nan(None).sum().over(images) == 2,
        stratum=pl.col("question_type").cast(pl.String).fill_null("").rank("dense").cast(pl.Int64) - 1,
    )
    whole = bool((rows["asked"] == 2).all()) and rows["right"].null_count() == 0
    if not whole or part["question_type"].null_count():
        nothing = np.zeros(part.height)
        note = "no total: MME needs the category of every question and both questions of every image"
        return SumOfRatios(nothing, nothing, np.zeros(part.height, dtype=np.int64), False, note)
    # Two rows an image: each adds half of accuracy+ and half of the image.
    points = 50.0 * rows["right"].to_numpy() + 50.0 * rows["both"].cast(pl.Float64).to_numpy()
    half = np.full(part.height, 0.5)
    about = f"points: accuracy + accuracy+ of {rows['stratum'].n_unique()} categories, summed"
    return SumOfRatios(points, half, rows["stratum"].to_numpy(), False, about)

"""Measures of confidence that need the samples themselves, on all of them and on every bootstrap draw."""

from __future__ import annotations

__all__ = ["RANK_GRID", "Side", "aurc_draws", "mean_known", "measure_draws"]

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis import calibration_measures as measure
from vlm_backbones.analysis.bootstrap import level_totals
from vlm_backbones.analysis.smooth_ece import smece, smece_draws

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RANK_GRID = 1000


@dataclass(frozen=True)
class Side:
    """One run's confidences, outcomes and losses, (questions,) each."""

    confidence: Floats
    correct: Floats
    brier: Floats
    nll: Floats

    def where(self, keep: NDArray[np.bool_]) -> Side:
        """Some of the questions."""
        return Side(*(values[keep] for values in (self.confidence, self.correct, self.brier, self.nll)))


def measure_draws(side: Side, group: Ints, weights: Floats) -> tuple[dict[str, float], dict[str, Floats]]:
    """brier, nll, auroc, smece and overconfidence: measure -> value, and (draws,).

    Parameters
    ----------
    group, weights : of `bootstrap.cluster_weights`.
    """
    c, y = side.confidence, side.correct
    values = {
        "brier": mean_known(side.brier),
        "nll": mean_known(side.nll),
        "auroc": measure.auroc(c, y),
        "smece": smece(c, y),
        "overconfidence": mean_known(c - y),
    }
    drawn = {
        "brier": _mean_draws(side.brier, group, weights),
        "nll": _mean_draws(side.nll, group, weights),
        "overconfidence": _mean_draws(c - y, group, weights),
        "auroc": _auroc_draws(c, y, group, weights),
        "smece": smece_draws(c, y, group, weights),
    }
    return values, drawn


def mean_known(values: Floats) -> float:
    """Mean without NaN; NaN of nothing."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else float("nan")


def _mean_draws(values: Floats, group: Ints, weights: Floats) -> Floats:
    known, groups = ~np.isnan(values), weights.shape[1]
    sums = np.bincount(group, weights=np.nan_to_num(values), minlength=groups)
    counts = np.bincount(group, weights=known.astype(float), minlength=groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((weights @ sums) / (weights @ counts))


def _levels(confidence: Floats) -> Ints:
    """Each confidence's place among the distinct ones, ascending, at most 1,000 of them."""
    distinct, place = np.unique(confidence, return_inverse=True)
    if distinct.size > RANK_GRID:
        place = np.unique(np.round(confidence * RANK_GRID), return_inverse=True)[1]
    return place.astype(np.int64)


def _counts(level: Ints, y: Floats, group: Ints, weights: Floats) -> tuple[Floats, Floats]:
    """Right and wrong answers at each level in each draw: (draws, levels) each."""
    return level_totals(weights, group, level, y), level_totals(weights, group, level, 1 - y)


def _auroc_draws(c: Floats, y: Floats, group: Ints, weights: Floats) -> Floats:
    """AUROC of each draw, from weighted counts of right and wrong at each of at most 1,000 distinct confidences."""
    right, wrong = _counts(_levels(c), y, group, weights)
    below = np.cumsum(wrong, axis=1) - wrong / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((right * below).sum(axis=1) / (right.sum(axis=1) * wrong.sum(axis=1)))


def aurc_draws(side: Side, group: Ints, weights: Floats) -> Floats:
    """AURC of each draw, ties in random order, on at most 1,000 distinct confidences.

    The j-th of c answers of a tie that N answers with W errors precede has the expected risk (W + j w / c) / (N + j):
    over the tie that sums to w + (W - N w / c) (H(N + c) - H(N)), H the harmonic numbers.
    """
    from scipy.special import digamma

    level = _levels(side.confidence)
    right, wrong = _counts(level.max() - level, side.correct, group, weights)  # most confident first
    size = right + wrong
    through, errors = np.cumsum(size, axis=1), np.cumsum(wrong, axis=1)
    before, errors_before = through - size, errors - wrong
    share = np.divide(wrong, size, out=np.zeros_like(wrong), where=size > 0)
    harmonic = digamma(through + 1) - digamma(before + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        risks = wrong + (errors_before - before * share) * harmonic
        return np.asarray(risks.sum(axis=1) / through[:, -1])

"""How far answers fall from the truth, over distances and over confidence: pure functions with bootstrap intervals."""

from __future__ import annotations

__all__ = ["ConfidenceGroup", "errors_by_confidence", "share_within", "share_within_band"]

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis.bootstrap import cluster_sums, cluster_weights, interval, pattern_bootstrap

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK = 50


@dataclass(frozen=True)
class ConfidenceGroup:
    """Answers of neighbouring confidence: mean confidence, and the median error with its 95 % interval."""

    confidence: float
    median_km: float
    low_km: float
    high_km: float
    n: int


def share_within(error_km: Floats, limits_km: Floats) -> Floats:
    """Share of all answers within each distance: the empirical distribution function; NaN (not parsed) is never within.

    Returns
    -------
    (limits,), NaN where there is no answer.
    """
    if error_km.size == 0:
        return np.full(limits_km.size, np.nan)
    known = np.sort(error_km[~np.isnan(error_km)])
    return np.searchsorted(known, limits_km, side="right") / error_km.size


def share_within_band(
    error_km: Floats, cluster: Ints, limits_km: Floats, draws: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Pointwise 95 % percentile band of `share_within`; answers that share a cluster are drawn together."""
    if error_km.size == 0:
        return np.full(limits_km.size, np.nan), np.full(limits_km.size, np.nan)
    within = (error_km[:, None] <= limits_km).astype(float)
    drawn = pattern_bootstrap(cluster_sums(np.column_stack([within, np.ones(error_km.size)]), cluster), draws, rng)
    low, high = np.quantile(drawn[:, :-1] / drawn[:, -1:], [0.025, 0.975], axis=0)
    return low, high


def errors_by_confidence(
    confidence: Floats, error_km: Floats, cluster: Ints, draws: int, rng: np.random.Generator, *, groups: int = 5
) -> list[ConfidenceGroup]:
    """Median error in groups of equal count, least confident first; equal confidences share a group.

    The interval resamples clusters. Answers without a confidence or an error must be left out before.
    """
    if confidence.size == 0:
        return []
    weights, place = cluster_weights(cluster, draws, rng)
    rank = np.searchsorted(np.sort(confidence), confidence, side="left")
    out = []
    for group in np.unique(rank * groups // confidence.size):
        rows = np.flatnonzero(rank * groups // confidence.size == group)
        rows = rows[np.argsort(error_km[rows])]
        drawn = np.concatenate(
            [_medians(error_km[rows], weights[i : i + _BLOCK, place[rows]]) for i in range(0, draws, _BLOCK)]
        )
        low, high = interval(drawn)
        median = float(np.median(error_km[rows]))
        out.append(ConfidenceGroup(float(confidence[rows].mean()), median, low, high, rows.size))
    return out


def _medians(ordered: Floats, weights: Floats) -> Floats:
    """Weighted median of each draw: (draws,), NaN where a draw holds none of these answers."""
    reached = np.cumsum(weights, axis=1)
    total = reached[:, -1:]
    first = np.argmax(reached >= total / 2, axis=1)
    return np.where(total[:, 0] > 0, ordered[first], np.nan)

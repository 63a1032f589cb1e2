"""Agreement of all runs on one task, from the matrix of right and wrong (runs, questions)."""

from __future__ import annotations

__all__ = ["benjamini_hochberg", "cochran_q", "cochran_q_cluster_p", "fleiss_kappa", "holm", "krippendorff_alpha"]

import math
from collections.abc import Callable
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MANY_RUNS = 5
_DRAWS = 10_000


def krippendorff_alpha(correct: Floats) -> float:
    """Krippendorff's alpha, nominal, of 0/1 ratings with NaN for missing ones (Krippendorff 2011).

    1 - D_o / D_e over the questions that two or more runs scored; NaN where all ratings are equal.
    """
    rated = (~np.isnan(correct)).sum(axis=0).astype(float)
    right = np.nansum(correct, axis=0)
    keep = rated >= 2
    rated, right = rated[keep], right[keep]
    total, ones = float(rated.sum()), float(right.sum())
    if total == 0 or ones in (0.0, total):
        return math.nan
    observed = float((2 * right * (rated - right) / (rated - 1)).sum()) / total
    expected = 2 * ones * (total - ones) / (total * (total - 1))
    return 1 - observed / expected


def fleiss_kappa(correct: Floats) -> float:
    """Fleiss' kappa of right and wrong over the questions that every run scored (Fleiss 1971)."""
    complete = correct[:, ~np.isnan(correct).any(axis=0)]
    runs, n = complete.shape
    if n == 0 or runs < 2:
        return math.nan
    right = complete.sum(axis=0)
    share = float(right.sum()) / (n * runs)
    expected = share**2 + (1 - share) ** 2
    if expected == 1:
        return math.nan
    observed = float(((right**2 + (runs - right) ** 2 - runs) / (runs * (runs - 1))).mean())
    return float((observed - expected) / (1 - expected))


def cochran_q(correct: Floats) -> tuple[float, float]:
    """Cochran's Q and its chi-squared p-value over the questions that every run scored (Cochran 1950)."""
    complete = correct[:, ~np.isnan(correct).any(axis=0)]
    runs = complete.shape[0]
    q = _q(complete.sum(axis=1), complete.sum(axis=0), runs)
    if math.isnan(q):
        return math.nan, math.nan
    from scipy.stats import chi2

    return q, float(chi2.sf(q, runs - 1))


def _q(by_run: Floats, by_question: Floats, runs: int) -> float:
    total = float(by_run.sum())
    bottom = runs * total - float((by_question**2).sum())
    if bottom <= 0:
        return math.nan
    return (runs - 1) * (runs * float((by_run**2).sum()) - total**2) / bottom


def cochran_q_cluster_p(correct: Floats, cluster: NDArray[np.int64], rng: np.random.Generator) -> float:
    """p-value of Cochran's Q where questions share images: the runs' labels are permuted within whole clusters.

    10,000 random permutations with the observed one counted in; clusters with equal sums are permuted together.
    """
    keep = ~np.isnan(correct).any(axis=0)
    complete, cluster = correct[:, keep], cluster[keep]
    runs = complete.shape[0]
    if complete.size == 0 or math.isnan(_q(complete.sum(axis=1), complete.sum(axis=0), runs)):
        return math.nan
    sums = np.column_stack([np.bincount(cluster, weights=row) for row in complete])  # (clusters, runs)
    # Only the sum over runs of squared totals changes under permutation, so it is the statistic.
    observed = float((sums.sum(axis=0) ** 2).sum()) - 1e-6
    totals = np.zeros((_DRAWS, runs))
    patterns, counts = np.unique(np.sort(sums, axis=1), axis=0, return_counts=True)
    for pattern, count in zip(patterns, counts, strict=True):
        if pattern[0] == pattern[-1]:
            totals += pattern * count
        elif runs <= _MANY_RUNS:
            orders = np.array(list(permutations(pattern)))
            totals += rng.multinomial(count, np.full(len(orders), 1 / len(orders)), size=_DRAWS) @ orders
        else:
            for _ in range(int(count)):
                totals += rng.permuted(np.tile(pattern, (_DRAWS, 1)), axis=1)
    return float((1 + np.sum((totals**2).sum(axis=1) >= observed)) / (1 + _DRAWS))


def holm(p: Floats) -> Floats:
    """Holm's (1979) adjusted p-values; NaN stays NaN and does not count."""
    return _adjust(p, lambda rank, m: m - rank, upwards=True)


def benjamini_hochberg(p: Floats) -> Floats:
    """Benjamini and Hochberg's (1995) q-values; NaN stays NaN and does not count."""
    return _adjust(p, lambda rank, m: m / (rank + 1), upwards=False)


def _adjust(p: Floats, factor: Callable[[Ints, int], Floats | Ints], *, upwards: bool) -> Floats:
    out = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    rank = np.arange(order.size)
    scaled = p[order] * np.asarray(factor(rank, order.size))
    steps = np.maximum.accumulate(scaled) if upwards else np.minimum.accumulate(scaled[::-1])[::-1]
    out[order] = np.minimum(steps, 1.0)
    return out

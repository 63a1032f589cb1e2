"""Agreement of all runs on one task, from the matrix of right and wrong (runs, questions)."""

from __future__ import annotations

__all__ = [
    "benjamini_hochberg",
    "cochran_q",
    "cochran_q_cluster_p",
    "fleiss_kappa",
    "holm",
    "krippendorff_alpha",
    "together",
]

import math
from collections.abc import Callable
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis.bootstrap import cluster_sums, pattern_bootstrap
from vlm_backbones.analysis.pair_measures import ratio

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MANY_RUNS = 5
_DRAWS = 10_000


def krippendorff_alpha(correct: Floats) -> float:
    """Krippendorff's alpha, nominal, of 0/1 ratings with NaN for missing ones (Krippendorff 2011).

    1 - D_o / D_e over the questions that two or more runs scored; NaN where all ratings are equal.
    """
    return float(_alphas(_parts(correct).sum(axis=0)[None])[0])


def fleiss_kappa(correct: Floats) -> float:
    """Fleiss' kappa of right and wrong over the questions that every run scored (Fleiss 1971)."""
    return float(_fleiss(_parts(correct).sum(axis=0)[None], len(correct))[0])


def together(
    correct: Floats, cluster: Ints, draws: int, rng: np.random.Generator
) -> tuple[dict[str, float], dict[str, Floats]]:
    """alpha, Fleiss' kappa and the oracle's accuracy (solved by at least one run), and their draws over clusters."""
    sums = cluster_sums(_parts(correct), cluster)
    of_all, drawn = (
        {
            "krippendorff_alpha": _alphas(totals),
            "fleiss_kappa": _fleiss(totals, len(correct)),
            "oracle_accuracy": ratio(totals[:, 6], totals[:, 3]),
        }
        for totals in (sums.sum(axis=0)[None], pattern_bootstrap(sums, draws, rng))
    )
    return {name: float(values[0]) for name, values in of_all.items()}, drawn


def _parts(correct: Floats) -> Floats:
    """What each question adds to the measures: (questions, 7).

    Of questions that two or more runs scored: disagreeing ratings, ratings, right ones; of those that all scored: one,
    right ones, agreeing pairs of runs, solved by any.
    """
    runs = len(correct)
    rated = (~np.isnan(correct)).sum(axis=0).astype(float)
    right = np.nansum(correct, axis=0)
    paired, whole = rated >= 2, rated == runs
    split = np.where(paired, 2 * right * (rated - right) / np.maximum(rated - 1, 1), 0.0)
    agree = (right**2 + (runs - right) ** 2 - runs) / max(runs * (runs - 1), 1)
    return np.column_stack(
        [split, rated * paired, right * paired, whole, right * whole, agree * whole, (right > 0) & whole]
    ).astype(np.float64)


def _alphas(totals: Floats) -> Floats:
    split, rated, ones = totals[:, :3].T
    return 1 - ratio(ratio(split, rated), ratio(2 * ones * (rated - ones), rated * (rated - 1)))


def _fleiss(totals: Floats, runs: int) -> Floats:
    n, ones, agree = totals[:, 3:6].T
    if runs < 2:
        return np.full(len(totals), math.nan)
    share = ratio(ones, n * runs)
    expected = share**2 + (1 - share) ** 2
    return ratio(ratio(agree, n) - expected, 1 - expected)


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

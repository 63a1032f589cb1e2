"""Resampling whose cost does not grow with the number of questions: equal clusters are drawn together."""

from __future__ import annotations

__all__ = [
    "HASHED_GROUPS",
    "SharedBootstrap",
    "cluster_sums",
    "cluster_weights",
    "interval",
    "level_totals",
    "pattern_bootstrap",
    "sign_flip_p",
    "wilson",
]

import math

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HASHED_GROUPS = 2000
_MAX_PATTERNS = 5000
_FEW_PATTERNS = 100
_MAX_CLUSTERS = 20_000
_EXACT_CLUSTERS = 16
_FLIPS = 20_000
_MANY_SIZES = 2_000
_CHUNK = 256
_SPARSE = 20
_ROWS_AT_ONCE = 2**18


def cluster_sums(values: Floats, cluster: Ints) -> Floats:
    """Sum the rows of `values` (questions, columns) within each cluster: (clusters, columns)."""
    count = int(cluster.max()) + 1 if cluster.size else 0
    sums = np.empty((count, values.shape[1]))
    for place, column in enumerate(values.T):
        sums[:, place] = np.bincount(cluster, weights=column, minlength=count)
    return sums


def pattern_bootstrap(sums: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Resample clusters with replacement and return the totals of each draw: (draws, columns).

    Clusters with equal sums are exchangeable, so the draw is a multinomial over the distinct rows. Above 5,000 distinct
    rows the clusters are joined at random into 2,000 groups.
    """
    if sums.shape[0] == 0:
        return np.full((draws, sums.shape[1]), np.nan)
    first = sums[: 4 * _MAX_PATTERNS]  # enough to tell that all are many, without counting all of them
    rows, counts = _distinct_rows(first)
    if rows.shape[0] <= _MAX_PATTERNS and len(first) < len(sums):
        rows, counts = _distinct_rows(sums)
    if rows.shape[0] > _MAX_PATTERNS:
        group = rng.permutation(sums.shape[0]) % HASHED_GROUPS
        rows = cluster_sums(sums, group)
        counts = np.ones(HASHED_GROUPS, dtype=np.int64)
    total = int(counts.sum())
    return rng.multinomial(total, counts / total, size=draws).astype(float) @ rows


def _distinct_rows(sums: Floats) -> tuple[Floats, Ints]:
    """Distinct rows in ascending order and how often each occurs, by hashing: sorting all rows would take most of the
    time of a table, and hashing them all at once most of its memory."""
    names = [str(column) for column in range(sums.shape[1])]
    starts = range(0, max(1, len(sums)), _ROWS_AT_ONCE)
    parts = [pl.DataFrame(sums[at : at + _ROWS_AT_ONCE], schema=names).group_by(names).len() for at in starts]
    counted = pl.concat(parts).group_by(names).sum().sort(names)
    return counted.select(names).to_numpy(), counted["len"].to_numpy().astype(np.int64)


class SharedBootstrap:
    """`pattern_bootstrap` for many metrics of the same questions: where clusters hardly repeat, one set of draws serves
    every metric with that number of clusters."""

    def __init__(self, draws: int, seed: int) -> None:
        self._draws = draws
        self._seed = seed
        self._weights: dict[int, Floats] = {}

    def totals(self, sums: Floats) -> Floats:
        """Totals of each draw: (draws, columns)."""
        clusters = sums.shape[0]
        rng = np.random.default_rng([self._seed, clusters])
        if clusters > _MAX_PATTERNS or _distinct_rows(sums)[1].size <= _FEW_PATTERNS:
            return pattern_bootstrap(sums, self._draws, rng)
        if clusters not in self._weights:
            drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=self._draws)
            self._weights[clusters] = drawn.astype(float)
        return self._weights[clusters] @ sums


def cluster_weights(cluster: Ints, draws: int, rng: np.random.Generator) -> tuple[Floats, Ints]:
    """Return how often each cluster appears in each draw (draws, groups) and the group of each question.

    Above 20,000 clusters the groups are 2,000 random unions of clusters.
    """
    count = int(cluster.max()) + 1 if cluster.size else 0
    if count > _MAX_CLUSTERS:
        cluster = (rng.permutation(count) % HASHED_GROUPS)[cluster]
        count = HASHED_GROUPS
    weights = rng.multinomial(count, np.full(count, 1 / max(count, 1)), size=draws)
    return weights.astype(float), cluster


def level_totals(weights: Floats, group: Ints, level: Ints, values: Floats) -> Floats:
    """Sum `values` by level in each draw: (draws, levels).

    Parameters
    ----------
    weights, group : of `cluster_weights`.
    level : (questions,), codes from 0.
    """
    levels, groups = int(level.max(initial=-1)) + 1, weights.shape[1]
    if values.size * _SPARSE < levels * groups:  # most groups have nothing at most levels
        from scipy.sparse import csr_matrix

        return np.asarray((csr_matrix((values, (level, group)), shape=(levels, groups)) @ weights.T).T)
    by_group = np.bincount(group * levels + level, weights=values, minlength=groups * levels)
    return np.asarray(weights @ by_group.reshape(groups, levels))


def interval(draws: Floats, level: float = 0.95, *, value: float = math.nan) -> tuple[float, float]:
    """Percentile interval; draws in which the statistic is undefined are left out, NaN where most are.

    An end that passes the statistic's own `value` by rounding alone is put on it.
    """
    kept = draws[np.isfinite(draws)]
    if kept.size == 0 or kept.size < draws.size / 2:
        return math.nan, math.nan
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return _not_past(value, float(low), 1), _not_past(value, float(high), -1)


def _not_past(value: float, end: float, side: int) -> float:
    return value if side * (end - value) > 0 and math.isclose(end, value, rel_tol=1e-12, abs_tol=1e-15) else end


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); NaN for n = 0."""
    if n == 0:
        return math.nan, math.nan
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # at its ends the formula gives 0 and 1 but for rounding
    return (0.0 if successes == 0 else max(0.0, centre - half)), (1.0 if successes == n else min(1.0, centre + half))


def sign_flip_p(sums: Floats, rng: np.random.Generator) -> float:
    """Two-sided p-value of "the cluster sums are symmetric about zero".

    Exact over all sign patterns up to 16 clusters that are not zero, else 20,000 random ones with the observed one
    counted in (Phipson & Smyth 2010). Clusters of one size are flipped together as a binomial. Beyond 2,000 distinct
    sizes the sum over random signs is normal to well under a flip's own error, with variance `sum(sums**2)`.
    """
    sums = sums[np.abs(sums) > 1e-12]
    if sums.size == 0:
        return 1.0
    observed = abs(float(sums.sum())) - 1e-9
    sizes, counts = np.unique(np.round(np.abs(sums), 12), return_counts=True)
    if sums.size <= _EXACT_CLUSTERS:
        signs = 1 - 2 * ((np.arange(2**sums.size)[:, None] >> np.arange(sums.size)) & 1)
        return float(np.mean(np.abs(signs @ sums) >= observed))
    if sizes.size > _MANY_SIZES:
        return float(2 * norm.sf(observed / np.sqrt((sums**2).sum())))
    flipped = np.zeros(_FLIPS)
    for start in range(0, sizes.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        flips = 2.0 * rng.binomial(counts[part], 0.5, size=(_FLIPS, counts[part].size)) - counts[part]
        flipped += flips @ sizes[part]
    return float((1 + np.sum(np.abs(flipped) >= observed)) / (1 + _FLIPS))

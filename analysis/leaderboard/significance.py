"""Which rows differ: on one benchmark, over the questions of a board, over its benchmarks."""

from __future__ import annotations

__all__ = ["ALPHA", "Pair", "benchmark_pairs", "over_benchmarks", "over_questions"]

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import rankdata

from vlm_backbones.analysis.leaderboard.compare import (
    Comparison,
    compare_independent,
    compare_paired,
    flip_p,
    flip_sums,
)
from vlm_backbones.analysis.leaderboard.standing import Standing
from vlm_backbones.analysis.many_measures import holm

Floats = NDArray[np.float64]

ALPHA = 0.05
_FEWEST_SIGNS = 6


@dataclass(frozen=True)
class Pair:
    """Two entries compared on `benchmark`, or over a board's benchmarks where it is None; Holm over its family."""

    benchmark: int | None
    first: int
    second: int
    found: Comparison
    p_holm: float

    @property
    def different(self) -> bool:
        """Whether the difference stands at 5 % after Holm."""
        return self.p_holm < ALPHA


def benchmark_pairs(standing: Standing, column: int, rng: np.random.Generator) -> list[Pair]:
    """Compare every two entries whose noise on the benchmark is known; one family, Holm.

    Samples of both are compared question by question; else two scores by their standard errors.
    """
    known = np.flatnonzero(~np.isnan(standing.error[:, column])).tolist()
    found = [(i, j, _on_benchmark(standing, column, i, j, rng)) for i, j in combinations(known, 2)]
    return _family(column, found)


def over_questions(
    standing: Standing, rows: Sequence[int], scored: Sequence[int], pairs: Iterable[Pair], seed: int
) -> list[Pair]:
    """Compare mean scores: would other questions of the same benchmarks turn the difference around?

    `pairs` are the comparisons on single benchmarks.

    Where both rows' samples are paired on every benchmark, the sign-flip test goes over the clusters of all of them,
    each weighted as in the mean score; else the standard errors are added up (z). Rows whose noise is unknown on one of
    the benchmarks are left out.
    """
    rng = np.random.default_rng(seed)
    known = [i for i in rows if scored and not np.isnan(standing.error[i, scored]).any()]
    single = {(pair.benchmark, frozenset((pair.first, pair.second))): pair for pair in pairs}
    found = []
    for i, j in combinations(known, 2):
        own = [single[column, frozenset((i, j))] for column in scored]
        found.append((i, j, _mean_difference(standing, own, i, j, rng)))
    return _family(None, found)


def over_benchmarks(standing: Standing, rows: Sequence[int], scored: Sequence[int]) -> list[Pair]:
    """Compare rows over benchmarks by Wilcoxon's signed-rank test on the normalised scores (Demsar 2006), Holm.

    It needs no samples, so it serves published tables too, but it asks another question: would the order hold on other
    benchmarks like these? Benchmarks count as independent and alike. Below six benchmarks no p-value can be under 5 %:
    then nothing is compared.
    """
    if len(scored) < _FEWEST_SIGNS:
        return []
    found = []
    for i, j in combinations(rows, 2):
        change = np.round(standing.normalised[i, scored] - standing.normalised[j, scored], 9)
        error = float(change.std(ddof=1) / math.sqrt(change.size))
        found.append((i, j, Comparison(float(change.mean()), error, "Wilcoxon", _signed_rank_p(change), len(scored))))
    return _family(None, found)


def _signed_rank_p(change: Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; zeros are dropped, ties share ranks, exact in both cases."""
    moved = change[change != 0]
    doubled = np.rint(2 * rankdata(np.abs(moved))).astype(int)  # ties have half ranks
    chance = np.ones(1)  # of each sum of the positive ranks, under random signs
    for rank in doubled:
        chance = (np.pad(chance, (0, rank)) + np.pad(chance, (rank, 0))) / 2
    positive = int(doubled[moved > 0].sum())
    return min(1.0, 2 * float(min(chance[: positive + 1].sum(), chance[positive:].sum())))


def _on_benchmark(standing: Standing, column: int, i: int, j: int, rng: np.random.Generator) -> Comparison:
    places = _places(standing, column, i, j)
    if places is not None:
        paired = compare_paired(standing.paired[column], *places, rng)
        if paired.n:
            return paired
    (value_i, error_i), (value_j, error_j) = (
        (float(standing.value[row, column]), float(standing.error[row, column])) for row in (i, j)
    )
    return compare_independent(value_i, error_i, value_j, error_j)


def _places(standing: Standing, column: int, i: int, j: int) -> tuple[int, int] | None:
    """Where both entries stand in the paired samples of a benchmark; None where one of them has none there."""
    if any(standing.cells[entry, column].origin != "samples" for entry in (i, j)):
        return None
    runs = standing.paired[column].runs
    return runs.index(standing.entries[i].name), runs.index(standing.entries[j].name)


def _mean_difference(standing: Standing, pairs: Sequence[Pair], i: int, j: int, rng: np.random.Generator) -> Comparison:
    """Difference of the mean scores, from one pair a benchmark; `pairs` may hold i and j in either order."""
    parts: list[Floats] = []
    diff, variance = 0.0, 0.0
    for pair in pairs:
        assert pair.benchmark is not None
        weight = standing.benchmarks[pair.benchmark].step / len(pairs)
        diff += weight * pair.found.diff * (1 if pair.first == i else -1)
        variance += (weight * pair.found.error) ** 2
        if pair.found.n:
            places = _places(standing, pair.benchmark, i, j)
            assert places is not None
            parts.append(weight * flip_sums(standing.paired[pair.benchmark], *places))
    error = math.sqrt(variance)
    if len(parts) == len(pairs):
        return Comparison(diff, error, "sign flips", flip_p(np.concatenate(parts), rng))
    return Comparison(diff, error, "z", 2 * float(ndtr(-abs(diff) / error)) if error > 0 else math.nan)


def _family(column: int | None, found: Sequence[tuple[int, int, Comparison]]) -> list[Pair]:
    adjusted = holm(np.array([one.p for _, _, one in found]))
    return [Pair(column, i, j, one, float(p)) for (i, j, one), p in zip(found, adjusted, strict=True)]

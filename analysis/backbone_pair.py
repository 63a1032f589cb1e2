"""An older and a newer backbone on one task, with all their seeds: what the claims need, from shared resamples."""

from __future__ import annotations

__all__ = ["BackbonePair", "blind_drop"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis import pair_measures as measure
from vlm_backbones.analysis.bootstrap import cluster_sums, pattern_bootstrap
from vlm_backbones.analysis.condition_pairs import pair_conditions
from vlm_backbones.analysis.pairing import Paired, cluster_codes, pair_runs

Floats = NDArray[np.float64]
Drawn = tuple[float, Floats]  # value, and its value on each draw


@dataclass(frozen=True)
class BackbonePair:
    """Runs of two backbones on one task, judged on the questions that all of them scored.

    Attributes
    ----------
    part
        Samples of one task and condition.
    older, newer
        Runs of each backbone, one a seed.
    """

    part: pl.DataFrame
    older: Sequence[str]
    newer: Sequence[str]
    draws: int
    seed: int

    @cached_property
    def paired(self) -> Paired:
        return pair_runs(self.part, [*self.older, *self.newer])

    @cached_property
    def scored(self) -> NDArray[np.bool_]:
        return np.asarray(~np.isnan(self.paired.score).any(axis=0))

    @property
    def counts(self) -> tuple[int, int]:
        """Questions that every run scored, and the others."""
        return int(self.scored.sum()), int((~self.scored).sum())

    def score_difference(self) -> Drawn:
        """Mean score of the newer minus that of the older, over their seeds."""
        totals, old = self._totals, len(self.older)
        means = totals[:, 1 : 1 + old + len(self.newer)] / totals[:, :1]
        return _split(means[:, old:].mean(1) - means[:, :old].mean(1))

    def older_score(self) -> Drawn:
        """Mean score of the older, over its seeds."""
        return _split(self._totals[:, 1 : 1 + len(self.older)].mean(1) / self._totals[:, 0])

    def right_with_one(self) -> tuple[Drawn, Drawn]:
        """Share of the questions right with the newer only, and with the older only: mean over pairs of their runs."""
        runs, n = len(self.older) + len(self.newer), self._totals[:, 0]
        right = self._totals[:, 1 + runs : 1 + 2 * runs]
        joint = dict(zip(self._pairs, self._totals[:, 1 + 2 * runs :].T, strict=True))
        across = [(i, j) for i, j in self._pairs if i < len(self.older) <= j]
        newer, older = (np.mean([right[:, pair[side]] - joint[pair] for pair in across], axis=0) / n for side in (1, 0))
        return _split(newer), _split(older)

    def phi(self) -> Drawn:
        """Mean phi of correctness over all pairs of a seed of one and a seed of the other."""
        return _split(self._mean_phi([(i, j) for i, j in self._pairs if i < len(self.older) <= j]))

    def phi_minus_ceiling(self) -> Drawn:
        """Phi minus the phi that two seeds of each backbone allow; NaN without two seeds of both."""
        return _split(self._mean_phi([(i, j) for i, j in self._pairs if i < len(self.older) <= j]) - self._ceiling)

    def seed_phis(self) -> tuple[float, float]:
        """The seed null: mean phi between seeds of the older and of the newer backbone."""
        old, new = self._within
        return float(self._mean_phi(old)[0]), float(self._mean_phi(new)[0])

    @property
    def _pairs(self) -> list[tuple[int, int]]:
        return list(combinations(range(len(self.older) + len(self.newer)), 2))

    @property
    def _within(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        old = len(self.older)
        return [p for p in self._pairs if p[1] < old], [p for p in self._pairs if p[0] >= old]

    @property
    def _ceiling(self) -> Floats:
        return measure.phi_ceiling(*(self._mean_phi(pairs) for pairs in self._within))

    def _mean_phi(self, pairs: list[tuple[int, int]]) -> Floats:
        """(1 + draws,)"""
        if not pairs:
            return np.full(len(self._totals), math.nan)
        runs = len(self.older) + len(self.newer)
        n, right = self._totals[:, 0], self._totals[:, 1 + runs : 1 + 2 * runs]
        joint = dict(zip(self._pairs, self._totals[:, 1 + 2 * runs :].T, strict=True))
        phis = []
        for i, j in pairs:
            both, a, b = joint[i, j], right[:, i], right[:, j]
            phis.append(measure.phi(both, a - both, b - both, n - a - b + both))
        return np.asarray(np.mean(phis, axis=0))

    @cached_property
    def _totals(self) -> Floats:
        """(1 + draws, columns), all questions first: n, scores, rights, and both right of every two runs."""
        kept = self.scored
        right, score = self.paired.correct[:, kept], self.paired.score[:, kept]
        both = [right[i] * right[j] for i, j in self._pairs]
        columns = np.column_stack([np.ones(kept.sum()), *score, *right, *both])
        sums = cluster_sums(columns, np.unique(self.paired.cluster[kept], return_inverse=True)[1])
        drawn = pattern_bootstrap(sums, self.draws, np.random.default_rng(self.seed))
        return np.concatenate([sums.sum(0, keepdims=True), drawn])


def blind_drop(samples: pl.DataFrame, runs: Sequence[str], draws: int, seed: int) -> tuple[Drawn, int]:
    """Mean score with another question's image (condition swap) minus the clean one, over the runs; and n.

    Parameters
    ----------
    samples : of one task, all conditions.
    """
    parts = []
    for run in runs:
        of_run = samples.filter(pl.col("run") == run)
        clean, swap = (of_run[rows.tolist()] for rows in pair_conditions(of_run, "swap"))
        parts.append(clean.select("doc_id", "cluster", fall=swap["score"] - clean["score"]).drop_nulls("fall"))
    both = pl.concat(parts)
    if both.is_empty():
        return (math.nan, np.full(draws, math.nan)), 0
    fall = both["fall"].to_numpy()
    sums = cluster_sums(np.column_stack([fall, np.ones(len(fall))]), cluster_codes(both["cluster"]))
    drawn = pattern_bootstrap(sums, draws, np.random.default_rng(seed))
    return (float(fall.mean()), drawn[:, 0] / drawn[:, 1]), both["doc_id"].n_unique()


def _split(values: Floats) -> Drawn:
    return float(values[0]), values[1:]

"""Two entries on one benchmark: how far apart, and may it be chance?"""

from __future__ import annotations

__all__ = ["Comparison", "binomial_error", "compare_independent", "compare_paired", "flip_p", "flip_sums"]

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from vlm_backbones.analysis.bootstrap import sign_flip_p
from vlm_backbones.analysis.pair_measures import mcnemar_p
from vlm_backbones.analysis.pairing import Paired

Floats = NDArray[np.float64]

_FEW_CLUSTERS = 16
_MANY_SIZES = 500
_FLIP_FLOOR = 1 / 20_001


@dataclass(frozen=True)
class Comparison:
    """Entry a minus entry b, in the unit of the scores.

    `error` is the standard error of `diff`; `n` the questions both answered, None where the two were not paired.
    """

    diff: float
    error: float
    test: str
    p: float
    n: int | None = None
    n_missing: int = 0


def binomial_error(share: float, n: float) -> float:
    """Standard error of a share of n questions, with one success and one failure added (Agresti & Caffo 2000).

    Unlike sqrt(p (1 - p) / n) it is not zero where all are right. For scores between the two it is an upper bound:
    no distribution on [0, 1] with that mean varies more.
    """
    kept = (share * n + 1) / (n + 2)
    return math.sqrt(kept * (1 - kept) / (n + 2))


def compare_paired(paired: Paired, first: int, second: int, rng: np.random.Generator) -> Comparison:
    """Compare two runs on the questions that both scored; `first` and `second` are places in `paired.runs`.

    McNemar's exact test where scores are 0/1 and no two questions share an image, else sign flips of cluster sums.
    """
    change = paired.score[first] - paired.score[second]
    both: NDArray[np.bool_] = ~np.isnan(change)
    n = int(both.sum())
    logged = (paired.rows[[first, second]] >= 0).any(axis=0)
    missing = int((logged & ~both).sum())
    if n == 0:
        return Comparison(math.nan, math.nan, "none", math.nan, 0, missing)
    mean = float(change[both].mean())
    centred = np.bincount(paired.cluster[both], weights=change[both] - mean)
    error = float(np.sqrt((centred**2).sum())) / n
    binary = bool(np.isin(paired.score[[first, second]][:, both], (0.0, 1.0)).all())
    _, sizes = np.unique(paired.cluster[both], return_counts=True)
    if binary and int(sizes.max()) == 1:
        only_a, only_b = int((change[both] > 0).sum()), int((change[both] < 0).sum())
        return Comparison(mean, error, "McNemar", mcnemar_p(only_a, only_b), n, missing)
    return Comparison(mean, error, "sign flips", flip_p(flip_sums(paired, first, second), rng), n, missing)


def flip_sums(paired: Paired, first: int, second: int) -> Floats:
    """What each cluster adds to the mean difference of two runs: (clusters,)."""
    change = paired.score[first] - paired.score[second]
    both = ~np.isnan(change)
    return np.bincount(paired.cluster[both], weights=change[both]).astype(float) / max(int(both.sum()), 1)


def flip_p(sums: Floats, rng: np.random.Generator) -> float:
    """Two-sided p of "the sums are symmetric about zero", as `sign_flip_p`, and finer than its random flips can be.

    Where no random flip reached what was observed, or the sums take more than 500 sizes, it is the normal tail with the
    flips' own variance, the sum of squares.
    """
    sums = sums[sums != 0]
    if sums.size == 0:
        return 1.0
    scaled = sums / np.abs(sums).max()
    if scaled.size <= _FEW_CLUSTERS:
        return sign_flip_p(scaled, rng)
    tail = 2 * float(ndtr(-abs(scaled.sum()) / math.sqrt((scaled**2).sum())))
    if np.unique(np.round(np.abs(scaled), 12)).size > _MANY_SIZES:
        return tail
    flipped = sign_flip_p(scaled, rng)
    return min(flipped, tail) if flipped <= _FLIP_FLOOR else flipped


def compare_independent(value_a: float, error_a: float, value_b: float, error_b: float) -> Comparison:
    """Compare two scores by their standard errors, as if each had been measured on questions of its own.

    Two rows of a published table answered the same questions, which makes the difference more certain than this says;
    without their samples nobody knows by how much.
    """
    diff, error = value_a - value_b, math.hypot(error_a, error_b)
    return Comparison(diff, error, "z, unpaired", 2 * float(ndtr(-abs(diff) / error)) if error > 0 else math.nan)

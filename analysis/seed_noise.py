"""A backbone's difference beside the noise of its seeds: questions and seeds both drawn at random.

Scores of one backbone are y(q, s) = mean + question q + seed s + rest. The variance of the difference of two backbones'
means is then estimated from mean squares, as in Cornfield & Tukey (1956): of the per-question differences (by cluster),
plus of each backbone's seed means, minus the rest that both of them hold. Its degrees of freedom are Satterthwaite's.
With three seeds they are few, and the interval says so.
"""

from __future__ import annotations

__all__ = ["SeedNoise", "seed_noise"]

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from vlm_backbones.analysis.bootstrap import cluster_sums

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SeedNoise:
    """Mean score of one backbone minus another's, with an interval that counts the seeds as chance."""

    diff: float
    low: float
    high: float
    sd_a: float
    sd_b: float
    """Standard deviation of a backbone's mean score over its seeds."""
    df: float
    p: float


def seed_noise(
    scores_a: Floats, scores_b: Floats, cluster: NDArray[np.int64], *, largest: float = math.inf
) -> SeedNoise:
    """Compare two backbones.

    Parameters
    ----------
    scores_a, scores_b
        (seeds, questions), two seeds or more, every question scored by every run.
    cluster
        (questions,), questions with the same number are drawn together.
    largest
        The largest difference that the scale has, 1 of shares: the interval is cut there, on both sides.
    """
    means = scores_a.mean(1), scores_b.mean(1)
    diff = float(means[1].mean() - means[0].mean())
    # mean square over its number of seeds (and questions), with its degrees of freedom and its sign in the variance
    parts = [(*_of_questions(scores_b.mean(0) - scores_a.mean(0), cluster), 1)]
    for scores, mean in zip((scores_a, scores_b), means, strict=True):
        seeds, questions = scores.shape
        rest = scores - mean[:, None] - scores.mean(0) + mean.mean()
        free = (seeds - 1) * (questions - 1)
        parts.append((float(mean.var(ddof=1)) / seeds, seeds - 1, 1))
        parts.append((float((rest**2).sum()) / free / seeds / questions, free, -1))
    total = sum(sign * part for part, _, sign in parts)
    variance = max(total, *(part for part, _, sign in parts if sign > 0))
    sd_a, sd_b = (float(mean.std(ddof=1)) for mean in means)
    if variance <= 0:
        return SeedNoise(diff, diff, diff, sd_a, sd_b, math.inf, 1.0 if diff == 0 else 0.0)
    df = variance**2 / sum(part**2 / free for part, free, _ in parts)
    error = math.sqrt(variance)
    reach = float(student.ppf(0.975, df)) * error
    low, high = max(diff - reach, -largest), min(diff + reach, largest)
    return SeedNoise(diff, low, high, sd_a, sd_b, df, float(2 * student.sf(abs(diff) / error, df)))


def _of_questions(change: Floats, cluster: NDArray[np.int64]) -> tuple[float, int]:
    """Variance of the mean change over drawn clusters, and its degrees of freedom."""
    sums = cluster_sums((change - change.mean())[:, None], cluster)[:, 0]
    clusters = sums.size
    return float((sums**2).sum()) * clusters / max(1, clusters - 1) / change.size**2, max(1, clusters - 1)

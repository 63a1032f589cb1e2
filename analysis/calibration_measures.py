"""Calibration of confidences in [0, 1] against outcomes 0/1: pure functions of two arrays of equal length."""

from __future__ import annotations

__all__ = [
    "aurc",
    "auroc",
    "bin_of",
    "binary_log_loss",
    "brier",
    "calibration_p",
    "ece",
    "ece_debiased",
    "ece_mass",
    "log_losses",
    "mce",
    "reliability_bins",
    "risk_coverage",
    "rmsce",
    "selective_accuracy",
]

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15
_GRID = 1000
_LARGE = 20_000


def bin_of(confidence: Floats, bins: int = BINS) -> Ints:
    """Index of the right-closed bin (lo, hi] of equal width; confidence 0 falls into the first."""
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1).astype(np.int64)


def reliability_bins(confidence: Floats, correct: Floats, bins: int = BINS) -> tuple[Floats, Floats, Floats]:
    """Count, mean confidence and accuracy of each bin (Murphy & Winkler 1977); NaN in an empty one."""
    return _bin_means(bin_of(confidence, bins), confidence, correct, bins)


def _bin_means(index: Ints, confidence: Floats, correct: Floats, bins: int) -> tuple[Floats, Floats, Floats]:
    count = np.bincount(index, minlength=bins).astype(float)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, weights=confidence, minlength=bins) / count
        accuracy = np.bincount(index, weights=correct, minlength=bins) / count
    return count, mean, accuracy


def _gaps(confidence: Floats, correct: Floats, bins: int) -> tuple[Floats, Floats]:
    count, mean, accuracy = reliability_bins(confidence, correct, bins)
    full = count > 0
    return count[full] / max(count.sum(), 1), np.abs(mean - accuracy)[full]


def ece(confidence: Floats, correct: Floats, bins: int = BINS) -> float:
    """Expected calibration error, sum_b (n_b/n) abs(conf_b - acc_b) (Naeini et al. 2015; Guo et al. 2017)."""
    weight, gap = _gaps(confidence, correct, bins)
    return float((weight * gap).sum()) if gap.size else math.nan


def mce(confidence: Floats, correct: Floats, bins: int = BINS) -> float:
    """Maximum calibration error: the largest gap of a bin (Naeini et al. 2015)."""
    _, gap = _gaps(confidence, correct, bins)
    return float(gap.max()) if gap.size else math.nan


def rmsce(confidence: Floats, correct: Floats, bins: int = BINS) -> float:
    """Root mean square calibration error, sqrt(sum_b (n_b/n) gap_b^2) (Hendrycks et al. 2019)."""
    weight, gap = _gaps(confidence, correct, bins)
    return math.sqrt(float((weight * gap**2).sum())) if gap.size else math.nan


def ece_mass(confidence: Floats, correct: Floats, bins: int = BINS) -> float:
    """ECE over bins of equal count (Nguyen & O'Connor 2015); equal confidences share the bin of their first rank."""
    if confidence.size == 0:
        return math.nan
    ordered = np.sort(confidence)
    rank = np.searchsorted(ordered, confidence, side="left")
    count, mean, accuracy = _bin_means((rank * bins // confidence.size).astype(np.int64), confidence, correct, bins)
    full = count > 0
    return float((count[full] / confidence.size * np.abs(mean - accuracy)[full]).sum())


def ece_debiased(confidence: Floats, correct: Floats, bins: int = BINS) -> float:
    """Debiased calibration error of Kumar et al. (2019), on the scale of rmsce.

    sqrt(max(0, sum_b (n_b/n) [(conf_b - acc_b)^2 - acc_b (1 - acc_b) / (n_b - 1)])); as in their library a bin with one
    confidence adds nothing, since its variance cannot be estimated.
    """
    if confidence.size == 0:
        return math.nan
    count, mean, accuracy = reliability_bins(confidence, correct, bins)
    many = count > 1
    n, acc = count[many], accuracy[many]
    square = (mean[many] - acc) ** 2 - acc * (1 - acc) / (n - 1)
    return math.sqrt(max(0.0, float((n * square).sum() / count.sum())))


def calibration_p(confidence: Floats, correct: Floats, rng: np.random.Generator, draws: int = 1000) -> float:
    """p-value of perfect calibration by consistency resampling (Brocker & Smith 2007; Vaicenavicius et al. 2019).

    Outcomes are redrawn from the confidences; the statistic is the 15-bin ECE. Above 20,000 confidences they are
    rounded to a grid of 1,000 points, on which the draws are binomial.
    """
    n = confidence.size
    if n == 0:
        return math.nan
    value, count = confidence, np.ones(n, dtype=np.int64)
    if n > _LARGE:
        value, count = np.unique(np.round(confidence * _GRID) / _GRID, return_counts=True)
    which = bin_of(value)
    mean = np.bincount(which, weights=value * count, minlength=BINS)
    member = np.eye(BINS)[which]  # (points, bins)
    observed = ece(confidence, correct)
    reached = 0
    for start in range(0, draws, 100):
        right = rng.binomial(count, np.clip(value, 0, 1), size=(min(100, draws - start), value.size)) @ member
        reached += int((np.abs(right - mean).sum(axis=1) / n >= observed - 1e-12).sum())
    return (1 + reached) / (1 + draws)


def brier(confidence: Floats, correct: Floats) -> float:
    """Mean of (confidence - correct)^2 (Brier 1950)."""
    return float(np.mean((confidence - correct) ** 2)) if confidence.size else math.nan


def binary_log_loss(confidence: Floats, correct: Floats) -> float:
    """Mean negative log-likelihood of the outcomes; confidences are kept 1e-15 away from 0 and 1."""
    return float(np.mean(log_losses(confidence, correct))) if confidence.size else math.nan


def log_losses(confidence: Floats, correct: Floats) -> Floats:
    """Negative log-likelihood of each outcome."""
    p = np.clip(confidence, 1e-15, 1 - 1e-15)
    return np.where(correct > 0.5, -np.log(p), -np.log1p(-p))


def auroc(confidence: Floats, correct: Floats) -> float:
    """Probability that a right answer has the higher confidence than a wrong one, ties half (Mann & Whitney 1947)."""
    right = int(correct.sum())
    wrong = correct.size - right
    if right == 0 or wrong == 0:
        return math.nan
    from scipy.stats import rankdata

    ranks = rankdata(confidence)
    return float((ranks[correct > 0.5].sum() - right * (right + 1) / 2) / (right * wrong))


def risk_coverage(confidence: Floats, correct: Floats) -> Floats:
    """Expected error rate among the k most confident, k = 1..n (El-Yaniv & Wiener 2010).

    Equal confidences are in random order, so within a tie the errors grow linearly.
    """
    n = confidence.size
    order = np.argsort(-confidence, kind="stable")
    wrong, ordered = 1 - correct[order], confidence[order]
    _, start, size = np.unique(-ordered, return_index=True, return_counts=True)
    tie_mean = np.add.reduceat(wrong, start) / size if n else np.array([])
    return np.asarray(np.cumsum(np.repeat(tie_mean, size)) / np.arange(1, n + 1))


def selective_accuracy(confidence: Floats, correct: Floats, coverage: float) -> float:
    """Accuracy among the ceil(coverage * n) most confident answers (Geifman & El-Yaniv 2017)."""
    n = confidence.size
    return float(1 - risk_coverage(confidence, correct)[math.ceil(coverage * n) - 1]) if n else math.nan


def aurc(confidence: Floats, correct: Floats) -> tuple[float, float]:
    """Area under the risk-coverage curve, and its excess over the perfect order's (Geifman et al. 2019).

    The optimum ranks every right answer first: with w wrong ones among n, mean over k of max(0, k - (n - w)) / k.
    """
    n = confidence.size
    if n == 0:
        return math.nan, math.nan
    k = np.arange(1, n + 1)
    area = float(risk_coverage(confidence, correct).mean())
    best = float((np.maximum(0, k - correct.sum()) / k).mean())
    return area, area - best

"""Agreement of two runs from their four counts; every function takes arrays of draws as well as numbers.

n11: both right, n10: only the first (older) right, n01: only the second right, n00: both wrong.
"""

from __future__ import annotations

__all__ = [
    "capa",
    "capa_of_means",
    "capa_terms",
    "count_measures",
    "detectable_difference",
    "kappa",
    "mcnemar_p",
    "phi",
    "phi_bounds",
    "phi_ceiling",
    "phi_scaled",
    "ratio",
    "yule_q",
]

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def ratio(top: ArrayLike, bottom: ArrayLike) -> Floats:
    """top / bottom, NaN where the bottom is zero."""
    numerator, denominator = np.broadcast_arrays(np.asarray(top, float), np.asarray(bottom, float))
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def phi(n11: ArrayLike, n10: ArrayLike, n01: ArrayLike, n00: ArrayLike) -> Floats:
    """Pearson correlation of two 0/1 vectors = Matthews correlation; NaN where one is constant (Yule 1912)."""
    a, b, c, d = (np.asarray(x, float) for x in (n11, n10, n01, n00))
    return ratio(a * d - b * c, np.sqrt((a + b) * (c + d) * (a + c) * (b + d)))


def phi_bounds(n11: ArrayLike, n10: ArrayLike, n01: ArrayLike, n00: ArrayLike) -> tuple[Floats, Floats]:
    """Smallest and largest phi that the two accuracies allow (Ferguson 1941).

    With p <= q the accuracies: the maximum has one solved set inside the other, n11 = n min(p, q); the minimum has
    n11 = n max(0, p + q - 1).
    """
    a, b, c, d = (np.asarray(x, float) for x in (n11, n10, n01, n00))
    n, first, second = a + b + c + d, a + b, a + c
    low, high = (
        phi(both, first - both, second - both, n - first - second + both)
        for both in (np.maximum(0.0, first + second - n), np.minimum(first, second))
    )
    return low, high


def phi_scaled(value: ArrayLike, low: ArrayLike, high: ArrayLike) -> Floats:
    """phi divided by phi_max where positive, by abs(phi_min) where negative: 1 = as alike as the margins allow."""
    phis = np.asarray(value, float)
    return ratio(phis, np.where(phis >= 0, high, np.abs(low)))


def kappa(n11: ArrayLike, n10: ArrayLike, n01: ArrayLike, n00: ArrayLike) -> Floats:
    """Cohen's kappa of correctness = error consistency (Geirhos et al. 2020): (c_obs - c_exp) / (1 - c_exp)."""
    a, b, c, d = (np.asarray(x, float) for x in (n11, n10, n01, n00))
    n = a + b + c + d
    first, second = ratio(a + b, n), ratio(a + c, n)
    expected = first * second + (1 - first) * (1 - second)
    return ratio(ratio(a + d, n) - expected, 1 - expected)


def yule_q(n11: ArrayLike, n10: ArrayLike, n01: ArrayLike, n00: ArrayLike) -> Floats:
    """(n11 n00 - n10 n01) / (n11 n00 + n10 n01) (Yule 1900)."""
    a, b, c, d = (np.asarray(x, float) for x in (n11, n10, n01, n00))
    return ratio(a * d - b * c, a * d + b * c)


def count_measures(n11: ArrayLike, n10: ArrayLike, n01: ArrayLike, n00: ArrayLike) -> dict[str, Floats]:
    """Every measure of the four counts, by its column in the table `agreement`."""
    a, b, c, d = (np.asarray(x, float) for x in (n11, n10, n01, n00))
    n, value, (low, high) = a + b + c + d, phi(a, b, c, d), phi_bounds(a, b, c, d)
    union = ratio(a + b + c, n)
    return {
        "phi": value,
        "phi_min": low,
        "phi_max": high,
        "phi_scaled": phi_scaled(value, low, high),
        "kappa": kappa(a, b, c, d),
        "jaccard_solved": ratio(a, a + b + c),
        "jaccard_failed": ratio(d, d + b + c),
        "union_accuracy": union,
        "intersection_accuracy": ratio(a, n),
        "oracle_gain": union - ratio(a + np.maximum(b, c), n),
        "negative_flip_rate": ratio(b, n),
        "positive_flip_rate": ratio(c, n),
        "yule_q": yule_q(a, b, c, d),
    }


def mcnemar_p(n10: int, n01: int) -> float:
    """Exact two-sided binomial p-value of n10 against n10 + n01 (McNemar 1947); 1 without discordant questions."""
    if n10 + n01 == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(n10, n10 + n01).pvalue)


def phi_ceiling(first_seeds: Floats, second_seeds: Floats) -> Floats:
    """sqrt(phi_aa' phi_bb'): the phi that two backbones would show if they differed no more than their own seeds do.

    NaN where a seed phi is not positive (the question stays undecided). Spearman's (1904) correction for attenuation.
    """
    product = np.where((first_seeds > 0) & (second_seeds > 0), first_seeds * second_seeds, np.nan)
    return np.sqrt(product)


def detectable_difference(change: Floats, design_effect: float) -> float:
    """Smallest mean paired difference that a two-sided test at 5 % finds with 80 % power, at this n and this spread.

    (z_0.975 + z_0.8) sqrt(design effect * variance / n) (Cohen 1988); NaN for fewer than two questions.
    """
    if change.size < 2 or math.isnan(design_effect):
        return math.nan
    from scipy.special import ndtri

    error = math.sqrt(max(design_effect, 0.0) * float(change.var(ddof=1)) / change.size)
    return float(ndtri(0.975) + ndtri(0.8)) * error


def capa(first: Floats, second: Floats, correct_option: NDArray[np.int64], options: NDArray[np.int64]) -> float:
    """Chance-adjusted probabilistic agreement (Goel et al. 2025).

    Parameters
    ----------
    first, second : (questions, options) probabilities of two runs, zero beyond a question's options.
    correct_option : (questions,) index of the right option.
    options : (questions,) number of options.
    """
    keep = options > 1
    if not keep.any():
        return math.nan
    first, second, correct_option, options = first[keep], second[keep], correct_option[keep], options[keep]
    means = capa_terms(first, second, correct_option, options).mean(axis=0)
    return float(capa_of_means(means[None])[0])


def capa_terms(first: Floats, second: Floats, correct_option: NDArray[np.int64], options: NDArray[np.int64]) -> Floats:
    """What CAPA is made of, for each question of two options or more: its value is `capa_of_means` of their means.

    Returns
    -------
    (questions, 4): probability of the same option, of the right option in either run, 1 / (options - 1).
    """
    rows = np.arange(len(first))
    right = [p[rows, correct_option] for p in (first, second)]
    return np.column_stack([(first * second).sum(axis=1), *right, 1 / (options - 1)])


def capa_of_means(means: Floats) -> Floats:
    """CAPA of each row of means (draws, 4) of `capa_terms`."""
    observed, right_a, right_b, inverse = means.T
    expected = right_a * right_b + (1 - right_a) * (1 - right_b) * inverse
    return ratio(observed - expected, 1 - expected)

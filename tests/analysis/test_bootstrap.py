"""Intervals and sign flips against theory and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from vlm_backbones.analysis import bootstrap as boot


def test_wilson_equals_statsmodels() -> None:
    for successes, n in ((0, 5), (5, 5), (37, 120)):
        assert boot.wilson(successes, n) == pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-12)
    assert all(math.isnan(end) for end in boot.wilson(0, 0))


def test_pattern_bootstrap_has_the_mean_and_spread_of_resampling() -> None:
    sums = np.array([[1.0, 1.0]] * 300 + [[0.0, 1.0]] * 100)
    drawn = boot.pattern_bootstrap(sums, 20_000, np.random.default_rng(0))
    share = drawn[:, 0] / drawn[:, 1]
    assert share.mean() == pytest.approx(0.75, abs=0.001)
    assert share.std() == pytest.approx(math.sqrt(0.75 * 0.25 / 400), rel=0.03)


def test_many_different_clusters_are_grouped_and_keep_the_total() -> None:
    rng = np.random.default_rng(1)
    sums = np.column_stack([rng.normal(3, 1, 9000), np.ones(9000)])
    drawn = boot.pattern_bootstrap(sums, 500, rng)
    assert (drawn[:, 0] / drawn[:, 1]).mean() == pytest.approx(sums[:, 0].mean(), abs=0.005)


def test_sign_flip_is_exact_for_few_clusters() -> None:
    sums = np.array([2.0, 1.0, -1.0, 3.0, 1.0])
    signs = itertools.product((-1, 1), repeat=5)
    expected = np.mean([abs(np.dot(s, sums)) >= abs(sums.sum()) for s in signs])
    assert boot.sign_flip_p(sums, np.random.default_rng(0)) == pytest.approx(expected)


def test_sign_flip_of_singletons_is_mcnemar() -> None:
    from scipy.stats import binomtest

    sums = np.repeat([1.0, -1.0], [40, 22])
    exact = binomtest(22, 62).pvalue
    assert boot.sign_flip_p(sums, np.random.default_rng(0)) == pytest.approx(exact, abs=0.006)
    assert boot.sign_flip_p(np.zeros(9), np.random.default_rng(0)) == 1.0


def test_the_normal_limit_of_many_sizes_continues_the_random_flips() -> None:
    rng = np.random.default_rng(3)
    for shift in (0.0, 0.03, 0.05):
        many = rng.normal(shift, 1.0, 2_500)  # 2,500 distinct sizes: the normal limit
        few = np.round(many, 2)  # a few hundred sizes: flipped
        flipped = boot.sign_flip_p(few, np.random.default_rng(0))
        assert boot.sign_flip_p(many, np.random.default_rng(0)) == pytest.approx(flipped, abs=0.015)

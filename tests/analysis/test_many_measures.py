"""Agreement of many runs, and adjusted p-values, against other libraries."""

from __future__ import annotations

import math

import krippendorff
import numpy as np
import pytest
from statsmodels.stats.contingency_tables import cochrans_q
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa
from statsmodels.stats.multitest import multipletests

from vlm_backbones.analysis import many_measures as many


@pytest.fixture
def correct() -> np.ndarray:
    rng = np.random.default_rng(3)
    hard = rng.random(80)
    return (rng.random((4, 80)) < 0.2 + 0.7 * hard).astype(float)


def test_alpha_equals_krippendorff_with_missing_values(correct: np.ndarray) -> None:
    correct[0, ::7] = np.nan
    correct[2, 1::9] = np.nan
    expected = krippendorff.alpha(reliability_data=correct, level_of_measurement="nominal")
    assert many.krippendorff_alpha(correct) == pytest.approx(expected, abs=1e-12)


def test_fleiss_and_cochran_equal_statsmodels(correct: np.ndarray) -> None:
    table, _ = aggregate_raters(correct.T.astype(int))
    assert many.fleiss_kappa(correct) == pytest.approx(fleiss_kappa(table), abs=1e-12)
    expected = cochrans_q(correct.T)
    q, p = many.cochran_q(correct)
    assert q == pytest.approx(expected.statistic, rel=1e-12)
    assert p == pytest.approx(expected.pvalue, rel=1e-9)


def test_cluster_permutation_equals_permuting_one_by_one(correct: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    cluster = np.arange(80) // 2
    sums = correct.reshape(4, 40, 2).sum(axis=2).T  # (clusters, runs)
    spread = [(rng.permuted(sums, axis=1).sum(axis=0) ** 2).sum() for _ in range(3000)]
    expected = np.mean(np.array(spread) >= (sums.sum(axis=0) ** 2).sum())
    assert many.cochran_q_cluster_p(correct, cluster, rng) == pytest.approx(expected, abs=0.03)


def test_the_least_p_of_permutations_is_the_observed_one_alone() -> None:
    """Sixty clusters in which one run alone is right: no random order of the runs comes near."""
    correct = np.zeros((3, 120))
    correct[0] = 1
    p = many.cochran_q_cluster_p(correct, np.arange(120) // 2, np.random.default_rng(0))
    assert p == 1 / 10_001


def test_holm_and_benjamini_hochberg_equal_statsmodels_and_skip_nan() -> None:
    p = np.array([0.01, 0.04, math.nan, 0.03, 0.2, 0.005])
    known = p[~np.isnan(p)]
    for ours, method in ((many.holm, "holm"), (many.benjamini_hochberg, "fdr_bh")):
        adjusted = ours(p)
        assert math.isnan(adjusted[2])
        np.testing.assert_allclose(adjusted[~np.isnan(p)], multipletests(known, method=method)[1], rtol=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 1.0, math.nan])
def test_constant_or_missing_ratings_give_nan(value: float) -> None:
    flat = np.full((3, 5), value)
    assert math.isnan(many.krippendorff_alpha(flat))
    assert math.isnan(many.fleiss_kappa(flat))
    assert math.isnan(many.cochran_q(flat)[0])

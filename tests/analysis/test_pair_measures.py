"""Agreement of two runs: hand-derived numbers, oracles, and the laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import cohen_kappa_score, matthews_corrcoef
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import NormalIndPower, TTestPower

from vlm_backbones.analysis import pair_measures as pair

COUNTS = st.tuples(*[st.integers(0, 40)] * 4)


def vectors(n11: int, n10: int, n01: int, n00: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([1, 1, 0, 0], [n11, n10, n01, n00])
    b = np.repeat([1, 0, 1, 0], [n11, n10, n01, n00])
    return a, b


@pytest.mark.parametrize("counts", [(40, 10, 20, 30), (3, 1, 4, 1), (100, 7, 2, 55)])
def test_phi_kappa_and_mcnemar_equal_the_oracles(counts: tuple[int, int, int, int]) -> None:
    a, b = vectors(*counts)
    assert float(pair.phi(*counts)) == pytest.approx(matthews_corrcoef(a, b), abs=1e-12)
    assert float(pair.phi(*counts)) == pytest.approx(pearsonr(a, b).statistic, abs=1e-12)
    assert float(pair.kappa(*counts)) == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)
    table = [[counts[0], counts[1]], [counts[2], counts[3]]]
    assert pair.mcnemar_p(counts[1], counts[2]) == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-9)


def test_phi_by_hand() -> None:
    # 40*30 - 10*20 = 1000; margins 50, 50, 60, 40: sqrt(50*50*60*40) = 2449.4897
    assert float(pair.phi(40, 10, 20, 30)) == pytest.approx(1000 / math.sqrt(6_000_000))
    # 40*30 = 1200, 10*20 = 200: (1200 - 200) / (1200 + 200)
    assert pair.yule_q(40, 10, 20, 30) == pytest.approx(5 / 7)


def test_phi_bounds_by_hand() -> None:
    # 50 and 60 of 100 right. Most alike: n11 = 50, n10 = 0, n01 = 10, n00 = 40 -> 2000 / sqrt(50*50*60*40).
    # Least alike: n11 = 10, n10 = 40, n01 = 50, n00 = 0 -> -2000 / the same.
    low, high = pair.phi_bounds(40, 10, 20, 30)
    assert high == pytest.approx(2000 / math.sqrt(6_000_000))
    assert low == pytest.approx(-2000 / math.sqrt(6_000_000))
    assert pair.phi_scaled(0.2, -0.5, 0.8) == pytest.approx(0.25)
    assert pair.phi_scaled(-0.2, -0.5, 0.8) == pytest.approx(-0.4)


def test_every_measure_stands_under_its_name() -> None:
    """Of 100 questions 40 both right, 10 only the first, 20 only the second, 30 neither."""
    found = {name: float(value) for name, value in pair.count_measures(40, 10, 20, 30).items()}
    top = math.sqrt(6_000_000)
    assert found == pytest.approx({
        "phi": 1000 / top, "phi_min": -2000 / top, "phi_max": 2000 / top, "phi_scaled": 0.5,
        "kappa": (0.7 - 0.5) / (1 - 0.5),  # expected: .5 * .6 + .5 * .4
        "jaccard_solved": 40 / 70, "jaccard_failed": 30 / 60, "union_accuracy": 0.7, "intersection_accuracy": 0.4,
        "oracle_gain": 0.7 - 0.6, "negative_flip_rate": 0.1, "positive_flip_rate": 0.2, "yule_q": 5 / 7,
    })  # fmt: skip


@given(COUNTS)
@settings(max_examples=200, deadline=None)
def test_symmetry_and_bounds(counts: tuple[int, int, int, int]) -> None:
    n11, n10, n01, n00 = counts
    for measure in (pair.phi, pair.kappa):
        forth, back = float(measure(n11, n10, n01, n00)), float(measure(n11, n01, n10, n00))
        assert (math.isnan(forth) and math.isnan(back)) or forth == pytest.approx(back)
    value = float(pair.phi(*counts))
    if not math.isnan(value):
        low, high = pair.phi_bounds(*counts)
        assert low - 1e-9 <= value <= high + 1e-9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (9, 0, 0, 0), (0, 0, 0, 9), (5, 4, 0, 0)])
def test_degenerate_counts_give_nan_and_no_warning(counts: tuple[int, int, int, int]) -> None:
    assert math.isnan(float(pair.phi(*counts)))
    assert math.isnan(pair.yule_q(*counts))
    assert pair.mcnemar_p(0, 0) == 1.0


def test_ceiling_needs_positive_seed_agreement() -> None:
    # sqrt(0.25 * 0.64) = 0.4
    ceiling = pair.phi_ceiling(np.array([0.25, -0.1]), np.array([0.64, 0.5]))
    assert ceiling[0] == pytest.approx(0.4)
    assert math.isnan(ceiling[1])


def test_capa_by_hand() -> None:
    # Two options, one question: p_a = (.8, .2), p_b = (.6, .4), option 0 right.
    # c_obs = .8*.6 + .2*.4 = .56; c_exp = .8*.6 + .2*.4/(2-1) = .56 -> (0)/(.44) = 0.
    a, b = np.array([[0.8, 0.2]]), np.array([[0.6, 0.4]])
    assert pair.capa(a, b, np.array([0]), np.array([2])) == pytest.approx(0.0)
    # Two questions, both certain and right on one, the same wrong option on the other; three options.
    # c_obs = 1; q = 1/2; c_exp = 1/4 + 1/4 * 1/2 = 3/8 -> (5/8)/(5/8) = 1.
    sure = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    assert pair.capa(sure, sure, np.array([0, 0]), np.array([3, 3])) == pytest.approx(1.0)


def test_the_detectable_difference_is_statsmodels() -> None:
    change = np.repeat([1.0, 0.0, -1.0], [300, 500, 200])
    effect = pair.detectable_difference(change, 1.0) / change.std(ddof=1)
    power = TTestPower().power(effect, nobs=1000, alpha=0.05, alternative="two-sided")
    assert power == pytest.approx(0.8, abs=0.002)
    assert NormalIndPower().power(effect, nobs1=1000, alpha=0.05, ratio=0) == pytest.approx(0.8, abs=1e-4)
    # questions that share an image: four times the variance, half the sight
    assert pair.detectable_difference(change, 4.0) == pytest.approx(2 * pair.detectable_difference(change, 1.0))
    # two questions, variance .5: an error of .5
    assert pair.detectable_difference(np.array([0.0, 1.0]), 1.0) == pytest.approx(0.5 * (1.959964 + 0.841621))
    assert np.isnan(pair.detectable_difference(change[:1], 1.0))

"""Risk-coverage on a grid, and its band."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_backbones.analysis.calibration_measures import risk_coverage, selective_accuracy
from vlm_backbones.analysis.risk_coverage import risk_at, risk_band

GRID = np.linspace(0.02, 1, 50)


def test_ties_count_by_their_expectation() -> None:
    # The surest answer is right; then three equal ones, one of them wrong: a third of an error each.
    confidence, correct = np.array([0.9, 0.5, 0.5, 0.5]), np.array([1.0, 0.0, 1.0, 1.0])
    found = risk_at(confidence, correct, np.array([0.25, 0.5, 0.75, 1.0]))
    assert found == pytest.approx([0, (1 / 3) / 2, (2 / 3) / 3, 1 / 4])


def test_agrees_with_the_curve_and_with_selective_accuracy() -> None:
    rng = np.random.default_rng(1)
    confidence, correct = rng.integers(0, 20, 300) / 20, (rng.random(300) < 0.7).astype(float)
    whole = risk_at(confidence, correct, np.arange(1, 301) / 300)
    assert whole == pytest.approx(risk_coverage(confidence, correct), abs=1e-12)
    for coverage in (0.25, 0.5, 0.75):
        kept = 1 - risk_at(confidence, correct, np.array([coverage]))[0]
        assert kept == pytest.approx(selective_accuracy(confidence, correct, coverage))


def test_ties_agree_with_random_orders() -> None:
    rng = np.random.default_rng(2)
    confidence, correct = rng.integers(0, 4, 40) / 4, (rng.random(40) < 0.6).astype(float)
    wrong = 1 - correct
    orders = [np.lexsort((rng.random(40), -confidence)) for _ in range(4000)]
    mean = np.mean([np.cumsum(wrong[order]) / np.arange(1, 41) for order in orders], axis=0)
    assert risk_at(confidence, correct, np.arange(1, 41) / 40) == pytest.approx(mean, abs=0.02)


def test_no_answers_have_no_risk() -> None:
    nothing = np.array([])
    assert np.isnan(risk_at(nothing, nothing, GRID)).all()
    low, high = risk_band(nothing, nothing, nothing.astype(np.int64), GRID, 10, np.random.default_rng(0))
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_the_band_is_binomial_where_confidence_is_constant() -> None:
    # All tied: the curve is flat at the error rate, whose bootstrap interval is the binomial's.
    from scipy.stats import binom

    n, correct = 400, np.repeat([1.0, 0.0], [300, 100])
    low, high = risk_band(np.full(n, 0.5), correct, np.arange(n), np.array([0.5, 1.0]), 2000, np.random.default_rng(3))
    expected = binom.ppf([0.025, 0.975], n, 0.25) / n
    assert low == pytest.approx([expected[0]] * 2, abs=0.006)
    assert high == pytest.approx([expected[1]] * 2, abs=0.006)


def test_questions_of_one_image_widen_the_band() -> None:
    rng = np.random.default_rng(4)
    right = np.repeat(rng.random(50) < 0.7, 8).astype(float)  # eight questions an image, all alike
    confidence = rng.random(400)
    alone = risk_band(confidence, right, np.arange(400), np.array([1.0]), 500, np.random.default_rng(0))
    shared = risk_band(confidence, right, np.repeat(np.arange(50), 8), np.array([1.0]), 500, np.random.default_rng(0))
    ratio = (shared[1] - shared[0]) / (alone[1] - alone[0])
    assert ratio[0] == pytest.approx(math.sqrt(8), rel=0.25)


def test_many_answers_on_a_grid_keep_the_band() -> None:
    rng = np.random.default_rng(5)
    confidence = rng.random(21_000)
    correct = (rng.random(21_000) < confidence).astype(float)
    low, high = risk_band(confidence, correct, np.arange(21_000), GRID, 100, rng)
    found = risk_at(confidence, correct, GRID)
    assert (low <= found + 0.004).all()
    assert (found <= high + 0.004).all()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_order_does_not_matter_and_risks_stay_in_the_unit_interval(rows: list[tuple[int, bool]]) -> None:
    confidence = np.array([level / 5 for level, _ in rows])
    correct = np.array([float(right) for _, right in rows])
    found = risk_at(confidence, correct, GRID)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()
    assert found[-1] == pytest.approx(1 - correct.mean())
    turned = np.random.default_rng(len(rows)).permutation(len(rows))
    assert risk_at(confidence[turned], correct[turned], GRID) == pytest.approx(found)

"""The band of perfect calibration behind a reliability diagram."""

from __future__ import annotations

import numpy as np
import pytest

from vlm_backbones.analysis.calibration_measures import reliability_bins
from vlm_backbones.analysis.consistency_band import consistency_band


def test_one_confidence_gives_the_binomial() -> None:
    from scipy.stats import binom

    low, high = consistency_band(np.full(200, 0.3), np.random.default_rng(0), draws=4000)
    expected = binom.ppf([0.025, 0.975], 200, 0.3) / 200
    bin_of_03 = 4  # (4/15, 5/15]
    assert low[bin_of_03] == pytest.approx(expected[0], abs=0.006)
    assert high[bin_of_03] == pytest.approx(expected[1], abs=0.006)
    assert np.isnan(np.delete(low, bin_of_03)).all()


def test_certain_answers_leave_no_room() -> None:
    low, high = consistency_band(np.ones(60), np.random.default_rng(0))
    assert low[-1] == high[-1] == 1.0


def test_calibrated_outcomes_lie_inside_most_of_the_time() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.random(3000)
    inside = []
    for _ in range(40):
        correct = (rng.random(3000) < confidence).astype(float)
        low, high = consistency_band(confidence, rng, draws=200)
        accuracy = reliability_bins(confidence, correct)[2]
        inside.append(((accuracy >= low) & (accuracy <= high)).mean())
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


def test_many_confidences_are_drawn_on_a_grid() -> None:
    rng = np.random.default_rng(2)
    few, many = rng.random(20_000), rng.random(21_000)
    widths = [np.subtract(*consistency_band(sample, rng, draws=200)[::-1]).mean() for sample in (few, many)]
    assert widths[0] == pytest.approx(widths[1], rel=0.1)


def test_no_confidence_gives_no_band() -> None:
    low, high = consistency_band(np.array([]), np.random.default_rng(0))
    assert np.isnan(low).all()
    assert np.isnan(high).all()

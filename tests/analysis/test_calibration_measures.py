"""Calibration measures: oracles, brute force, hand-derived values and laws."""

from __future__ import annotations

import math

import netcal.metrics
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from vlm_backbones.analysis import calibration_measures as measure
from vlm_backbones.analysis.options import Options, softmax
from vlm_backbones.analysis.smooth_ece import smece, smece_draws
from vlm_backbones.analysis.temperature import held_out


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    confidence = rng.beta(5, 2, 400)
    return confidence, (rng.random(400) < confidence**1.5).astype(float)


def test_binned_errors_equal_netcal(sample: tuple[np.ndarray, np.ndarray]) -> None:
    confidence, correct = sample
    assert measure.ece(confidence, correct) == pytest.approx(
        netcal.metrics.ECE(15).measure(confidence, correct), abs=1e-9
    )
    assert measure.mce(confidence, correct) == pytest.approx(
        netcal.metrics.MCE(15).measure(confidence, correct), abs=1e-9
    )


def test_scores_equal_sklearn(sample: tuple[np.ndarray, np.ndarray]) -> None:
    confidence, correct = np.round(sample[0], 1), sample[1]
    assert measure.auroc(confidence, correct) == pytest.approx(roc_auc_score(correct, confidence), abs=1e-12)
    assert measure.brier(confidence, correct) == pytest.approx(brier_score_loss(correct, confidence), abs=1e-12)
    assert measure.binary_log_loss(sample[0], correct) == pytest.approx(log_loss(correct, sample[0]), abs=1e-9)


def test_bins_are_right_closed_and_zero_is_in_the_first() -> None:
    assert measure.bin_of(np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 1.0])).tolist() == [0, 0, 1, 14]


def test_binned_errors_by_hand() -> None:
    # Two bins are hit: 0.9 twice (one right) gap .4, 0.3 twice (none right) gap .3.
    confidence, correct = np.array([0.9, 0.9, 0.3, 0.3]), np.array([1.0, 0, 0, 0])
    assert measure.ece(confidence, correct) == pytest.approx(0.35)
    assert measure.mce(confidence, correct) == pytest.approx(0.4)
    assert measure.rmsce(confidence, correct) == pytest.approx(math.sqrt((0.16 + 0.09) / 2))
    assert measure.ece_mass(confidence, correct) == pytest.approx(0.35)
    # Debiased: (.16 - .25/1 + .09 - 0)/2 = 0, the root of its positive part.
    assert measure.ece_debiased(confidence, correct) == pytest.approx(0, abs=1e-7)
    # four of five are .9, one of them right: .65^2 - .25 * .75 / 3; .3 once adds nothing
    confidence, correct = np.array([0.9, 0.9, 0.9, 0.9, 0.3]), np.array([1.0, 0, 0, 0, 0])
    assert measure.ece_debiased(confidence, correct) == pytest.approx(math.sqrt(0.8 * (0.4225 - 0.0625)))


def test_risk_coverage_by_hand() -> None:
    # Order: .9 right, then a tie of one right and one wrong: errors 0, 1/2, 1 -> risks 0, .25, 1/3.
    confidence, correct = np.array([0.5, 0.9, 0.5]), np.array([0.0, 1.0, 1.0])
    assert measure.risk_coverage(confidence, correct).tolist() == pytest.approx([0, 0.25, 1 / 3])
    area, excess = measure.aurc(confidence, correct)
    assert area == pytest.approx((0.25 + 1 / 3) / 3)
    # Perfect order: errors only at the last: mean(0, 0, 1/3).
    assert excess == pytest.approx(area - 1 / 9)
    assert measure.selective_accuracy(confidence, correct, 0.25) == 1.0


def brute_smece(confidence: np.ndarray, correct: np.ndarray) -> float:
    def at(sigma: float) -> float:
        def residual(t: float) -> float:
            total = 0.0
            for shift in range(-2, 3):
                for image in (confidence + 2 * shift, 2 * shift - confidence):
                    total += float((np.exp(-((t - image) ** 2) / (2 * sigma**2)) * (correct - confidence)).sum())
            return abs(total / (confidence.size * sigma * math.sqrt(2 * math.pi)))

        return quad(residual, 0, 1, limit=300)[0]

    low, high = 1e-3, 1.0
    for _ in range(18):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) > middle else (low, middle)
    return low


def test_smece_equals_the_brute_force_integral(sample: tuple[np.ndarray, np.ndarray]) -> None:
    confidence, correct = sample[0][:60], sample[1][:60]
    assert smece(confidence, correct) == pytest.approx(brute_smece(confidence, correct), abs=1e-3)


def test_smece_of_draws_with_unit_weights_is_the_plain_one(sample: tuple[np.ndarray, np.ndarray]) -> None:
    confidence, correct = sample
    drawn = smece_draws(confidence, correct, np.arange(400), np.ones((2, 400)))
    assert drawn == pytest.approx(smece(confidence, correct), abs=1e-3)


def test_p_of_calibration_is_small_only_for_the_miscalibrated() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 600)
    honest = (rng.random(600) < confidence).astype(float)
    boastful = (rng.random(600) < confidence - 0.2).astype(float)
    assert measure.calibration_p(confidence, honest, rng) > 0.05
    assert measure.calibration_p(confidence, boastful, rng) < 0.01


def test_temperature_recovers_a_known_scale() -> None:
    rng = np.random.default_rng(2)
    n = 6000
    logits = rng.normal(0, 1.5, (n, 4))
    right = np.array([rng.choice(4, p=p) for p in softmax(logits, np.full(n, 4))])
    sharp, answered = 2.5 * logits, logits.argmax(axis=1)
    confidence = softmax(sharp, np.full(n, 4)).max(axis=1)
    found = held_out(
        confidence,
        (answered == right).astype(float),
        np.arange(n) % 2 == 0,
        Options(sharp, right, np.full(n, 4), answered),
    )
    assert found.temperature == pytest.approx(2.5, rel=0.06)
    assert found.ece_heldout_after < 0.03 < found.ece_heldout_before
    assert found.nll_heldout_after < found.nll_heldout_before


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.randoms())
@settings(max_examples=80, deadline=None)
def test_errors_are_bounded_and_do_not_depend_on_order(pairs: list[tuple[float, bool]], random: object) -> None:
    confidence, correct = np.array([p[0] for p in pairs]), np.array([float(p[1]) for p in pairs])
    order = np.random.default_rng(0).permutation(len(pairs))
    for error in (measure.ece, measure.ece_mass, measure.mce, measure.rmsce, smece):
        value = error(confidence, correct)
        assert -1e-9 <= value <= 1 + 1e-6
        assert error(confidence[order], correct[order]) == pytest.approx(value, abs=1e-9)


def test_ece_is_zero_for_a_perfectly_calibrated_construction() -> None:
    confidence = np.repeat([0.25, 0.5, 0.75], 4)
    correct = np.array([1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0], dtype=float)
    assert measure.ece(confidence, correct) == pytest.approx(0, abs=1e-12)
    assert measure.ece_mass(confidence, correct) == pytest.approx(0, abs=1e-12)


@pytest.mark.filterwarnings("error")
def test_no_data_and_one_class_give_nan() -> None:
    nothing = np.array([])
    assert math.isnan(measure.ece(nothing, nothing))
    assert math.isnan(measure.aurc(nothing, nothing)[0])
    assert math.isnan(smece(nothing, nothing))
    assert math.isnan(measure.auroc(np.array([0.5, 0.6]), np.ones(2)))

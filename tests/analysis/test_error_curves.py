"""Shares within a distance and median errors by confidence, each with its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlm_backbones.analysis.error_curves import errors_by_confidence, share_within, share_within_band

LIMITS = np.array([10.0, 50.0, 100.0])


def test_an_answer_without_coordinates_is_within_nothing() -> None:
    # 5 and 50 km and one not parsed: one of three within 10 km, two of three from 50 km on (the limit counts).
    assert share_within(np.array([5.0, 50.0, math.nan]), LIMITS) == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert np.isnan(share_within(np.array([]), LIMITS)).all()


def test_the_band_is_binomial_for_questions_of_their_own() -> None:
    from scipy.stats import binom

    error = np.repeat([20.0, 200.0], [120, 80])
    low, high = share_within_band(error, np.arange(200), np.array([100.0]), 4000, np.random.default_rng(0))
    expected = binom.ppf([0.025, 0.975], 200, 0.6) / 200
    assert [low[0], high[0]] == pytest.approx(expected, abs=0.006)


def test_questions_of_one_image_widen_the_band() -> None:
    error = np.repeat(np.random.default_rng(1).choice([20.0, 200.0], 40), 5)
    alone = share_within_band(error, np.arange(200), LIMITS[2:], 1000, np.random.default_rng(0))
    shared = share_within_band(error, np.repeat(np.arange(40), 5), LIMITS[2:], 1000, np.random.default_rng(0))
    assert (shared[1] - shared[0])[0] == pytest.approx(math.sqrt(5) * (alone[1] - alone[0])[0], rel=0.2)


def test_groups_are_equal_and_ordered_by_confidence() -> None:
    confidence = np.arange(10) / 10
    groups = errors_by_confidence(
        confidence, 100.0 - np.arange(10), np.arange(10), 200, np.random.default_rng(0), groups=2
    )
    # Five answers each: confidences 0 to .4 with errors 100 to 96, then .5 to .9 with errors 95 to 91.
    assert [group.n for group in groups] == [5, 5]
    assert [group.confidence for group in groups] == pytest.approx([0.2, 0.7])
    assert [group.median_km for group in groups] == [98.0, 93.0]
    assert all(group.low_km <= group.median_km <= group.high_km for group in groups)


def test_equal_confidences_share_a_group() -> None:
    groups = errors_by_confidence(np.full(9, 0.5), np.arange(9.0), np.arange(9), 100, np.random.default_rng(0))
    assert [group.n for group in groups] == [9]
    assert groups[0].median_km == 4.0


def test_no_answers_form_no_group() -> None:
    nothing = np.array([])
    assert errors_by_confidence(nothing, nothing, nothing.astype(np.int64), 10, np.random.default_rng(0)) == []

"""Stability: 1 where nothing moves, 0 where a state is no nearer to its own than to another's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlm_backbones.analysis.table_stability import stability_draws


def test_a_hand_derived_value() -> None:
    # centred on the mean (0, 0); cosines: own (1, 0), different -1 and 0
    clean = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    moved = np.array([[1, 0], [0, 1]], dtype=np.float32)
    # own mean 0.5; different: cos(c0, m1) = 0, cos(c1, m0) = -1, mean -0.5; (0.5 + 0.5) / 1.5
    assert stability_draws(clean, moved)[0] == pytest.approx(2 / 3)


def test_nothing_moved_is_1_and_shuffled_is_0() -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(400, 16)).astype(np.float32)
    assert stability_draws(clean, clean)[0] == pytest.approx(1)
    assert stability_draws(clean, 5 * clean - 4 * clean.mean(0))[0] == pytest.approx(1)  # cosine sees no length
    assert abs(stability_draws(clean, clean[rng.permutation(400)])[0]) < 0.03
    assert abs(stability_draws(clean, np.broadcast_to(clean[3], clean.shape))[0]) < 0.03  # all collapse onto one


def test_a_draw_of_all_documents_once_is_the_value() -> None:
    rng = np.random.default_rng(1)
    clean = rng.normal(size=(30, 8)).astype(np.float32)
    moved = (clean + rng.normal(size=clean.shape)).astype(np.float32)
    value, drawn = stability_draws(clean, moved, np.ones((1, 30)))
    assert drawn[0] == pytest.approx(value)


def test_a_document_drawn_twice_is_no_pair_of_different_questions() -> None:
    rng = np.random.default_rng(2)
    clean = rng.normal(size=(3, 4)).astype(np.float32)
    weights = np.array([[2.0, 1.0, 0.0]])
    centre = clean - clean.mean(0)
    unit = centre / np.linalg.norm(centre, axis=1, keepdims=True)
    other = float(unit[0] @ unit[1])  # the only pair that this draw holds
    assert stability_draws(clean, clean, weights)[1][0] == pytest.approx((1 - other) / (1 - other))
    moved = np.roll(clean, 1, axis=0)
    far = moved - clean.mean(0)
    far /= np.linalg.norm(far, axis=1, keepdims=True)
    cosine = unit @ far.T
    own, different = (2 * cosine[0, 0] + cosine[1, 1]) / 3, (cosine[0, 1] + cosine[1, 0]) / 2
    assert stability_draws(clean, moved, weights)[1][0] == pytest.approx((own - different) / (1 - different), rel=1e-5)


def test_one_document_has_no_stability() -> None:
    one = np.ones((1, 4), dtype=np.float32)
    assert math.isnan(stability_draws(one, one)[0])

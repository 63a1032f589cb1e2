"""CKA against its definition written out: centring matrices, and averages over distinct quadruples."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from vlm_backbones.analysis.cka import cka_matrices, cka_matrix, debiased_cka_matrix

Floats32 = NDArray[np.float32]


def draw(seed: int, n: int, width: int) -> Floats32:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def test_biased_cka_is_its_definition() -> None:
    x, y = draw(0, 12, 5), draw(1, 12, 9)
    y[:, :5] += 2 * x
    centre = np.eye(12) - 1 / 12

    def hsic(a: Floats32, b: Floats32) -> float:
        return float(np.trace(centre @ (a @ a.T) @ centre @ (b @ b.T)))

    expected = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    assert cka_matrix([x, y]) == pytest.approx(np.array([[1, expected], [expected, 1]]), abs=1e-5)


def test_debiased_cka_is_the_u_statistic_of_song_2012() -> None:
    """HSIC = mean over distinct i, j, q, r of k_ij (l_ij + l_qr - 2 l_iq)."""
    x, y = draw(2, 6, 3), draw(3, 6, 4)
    y[:, :3] += x
    k, l = x @ x.T, y @ y.T  # noqa: E741

    def hsic(a: Floats32, b: Floats32) -> float:
        return float(np.mean([a[i, j] * (b[i, j] + b[q, r] - 2 * b[i, q]) for i, j, q, r in permutations(range(6), 4)]))

    expected = hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))
    assert debiased_cka_matrix([x, y])[0, 1] == pytest.approx(expected, abs=1e-5)


def test_rotation_scale_and_shift_change_nothing() -> None:
    x = draw(4, 40, 8)
    turn = np.linalg.qr(draw(5, 8, 8))[0]
    for matrix in (cka_matrix, debiased_cka_matrix):
        assert matrix([x, (300 * x @ turn + 7).astype(np.float32)]) == pytest.approx(np.ones((2, 2)), abs=1e-4)


def test_unrelated_representations_are_near_0_only_when_debiased() -> None:
    pairs = [[draw(2 * seed, 30, 64), draw(2 * seed + 1, 30, 64)] for seed in range(10, 40)]
    assert abs(np.mean([debiased_cka_matrix(pair)[0, 1] for pair in pairs])) < 0.03
    assert np.mean([cka_matrix(pair)[0, 1] for pair in pairs]) > 0.5


def test_tiles_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x = [draw(seed, 50, 6) for seed in range(3)]
    whole = cka_matrices(x)
    monkeypatch.setattr("vlm_backbones.analysis.cka._TILE", 7)
    for found, expected in zip(cka_matrices(x), whole, strict=True):
        assert found == pytest.approx(expected, abs=1e-6)


def test_a_constant_representation_has_no_similarity() -> None:
    constant = np.full((20, 4), 3.0, dtype=np.float32) + 1e-7 * draw(6, 20, 4)
    for matrix in (cka_matrix, debiased_cka_matrix):
        found = matrix([constant, draw(7, 20, 4)])
        assert np.isnan(found[0]).all()
        assert found[1, 1] == pytest.approx(1)
    assert np.isnan(debiased_cka_matrix([draw(8, 3, 2), draw(9, 3, 2)])).all()

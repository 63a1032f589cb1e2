"""Letters that say which results cannot be told apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_backbones.analysis.compact_letters import compact_letters


def differ(items: int, *pairs: tuple[int, int]) -> np.ndarray:
    matrix = np.zeros((items, items), dtype=bool)
    for i, j in pairs:
        matrix[i, j] = matrix[j, i] = True
    return matrix


@pytest.mark.parametrize(
    ("matrix", "letters"),
    [
        (differ(0), []),
        (differ(1), ["a"]),
        (differ(3), ["a", "a", "a"]),
        (differ(3, (0, 1), (0, 2), (1, 2)), ["a", "b", "c"]),
        # The middle one differs from neither end.
        (differ(3, (0, 2)), ["a", "ab", "b"]),
        # Four in a row, each unlike all but its neighbours.
        (differ(4, (0, 2), (0, 3), (1, 3)), ["a", "ab", "bc", "c"]),
        # Not an interval order: 1 and 3 alike, 2 and 4 alike, all else apart.
        (differ(4, (0, 1), (0, 3), (1, 2), (2, 3)), ["a", "b", "a", "b"]),
    ],
)
def test_known_displays(matrix: np.ndarray, letters: list[str]) -> None:
    assert compact_letters(matrix) == letters


def places(items: int) -> st.SearchStrategy[tuple[int, set[tuple[int, int]]]]:
    one = st.integers(0, items - 1)
    return st.tuples(st.just(items), st.sets(st.tuples(one, one)))


@given(st.integers(1, 7).flatmap(places))
def test_two_share_a_letter_exactly_where_they_are_not_told_apart(case: tuple[int, set[tuple[int, int]]]) -> None:
    items, pairs = case
    matrix = differ(items, *((i, j) for i, j in pairs if i != j))
    letters = compact_letters(matrix)
    for i in range(items):
        for j in range(items):
            assert bool(set(letters[i]) & set(letters[j])) == (not matrix[i, j])


def test_too_many_groups_give_no_letters() -> None:
    # Twelve pairs, each apart, everything else alike: 2**12 maximal groups.
    assert compact_letters(differ(24, *((2 * k, 2 * k + 1) for k in range(12)))) == [""] * 24

"""Compact letter display: which results a set of pairwise tests cannot tell apart."""

from __future__ import annotations

__all__ = ["compact_letters"]

from string import ascii_lowercase

import numpy as np
from numpy.typing import NDArray

_MOST = 2 * len(ascii_lowercase)


def compact_letters(differ: NDArray[np.bool_]) -> list[str]:
    """Letters of each item: two items share one exactly where they are not told apart (Piepho 2004).

    Parameters
    ----------
    differ : (items, items), symmetric; items in the order in which the letters shall begin.

    Returns
    -------
    One text an item, such as "a", "ab", "b"; empty texts where more than 52 letters would be needed.

    Examples
    --------
    >>> compact_letters(np.array([[False, False, True], [False, False, False], [True, False, False]]))
    ['a', 'ab', 'b']
    """
    items = differ.shape[0]
    columns = [frozenset(range(items))]
    for i, j in zip(*np.nonzero(np.triu(differ)), strict=True):
        split = [column - {gone} for column in columns if {i, j} <= column for gone in (int(i), int(j))]
        kept = [column for column in columns if not {i, j} <= column]
        columns = _absorbed(kept + split)
        if len(columns) > _MOST:
            return [""] * items
    columns.sort(key=sorted)
    return ["".join(_letter(k) for k, column in enumerate(columns) if item in column) for item in range(items)]


def _absorbed(columns: list[frozenset[int]]) -> list[frozenset[int]]:
    """Without empty columns, repeats, and columns that lie inside another."""
    unique = list(dict.fromkeys(column for column in columns if column))
    return [column for column in unique if not any(column < other for other in unique)]


def _letter(index: int) -> str:
    return (ascii_lowercase + ascii_lowercase.upper())[index]

"""Numbers in the place of texts: what rows by the million are compared by."""

from __future__ import annotations

__all__ = ["Codes", "Hashes", "numbered", "text_codes"]

from collections.abc import Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

Codes = NDArray[np.uint32]
Hashes = NDArray[np.uint64]

_NONE = np.uint32(np.iinfo(np.uint32).max)
_ROWS_AT_ONCE = 2**20


def text_codes(texts: pl.Series) -> Codes:
    """A number for each distinct text of a column, null like the empty one: (rows,)."""
    return texts.fill_null("").cast(pl.Categorical()).to_physical().to_numpy()


def numbered(key: Codes, part: Codes | Hashes) -> tuple[Codes, Codes]:
    """Number the distinct pairs of key and part in the order of their first rows.

    Its rounds are as many as a key has parts, each over the rows that are left: a table of all pairs would be many
    times the size of the rows.

    Returns
    -------
    number of each row's pair (rows,), and the first row of each pair (pairs,).
    """
    leader = np.empty_like(key)  # of each row, the first row of its pair
    of_key = np.empty(int(key.max(initial=0)) + 1, dtype=np.uint32)
    starts = range(0, key.size, _ROWS_AT_ONCE)
    left: Iterable[Codes] = (np.arange(at, min(at + _ROWS_AT_ONCE, key.size), dtype=np.uint32) for at in starts)
    while left:
        later = []
        of_key.fill(_NONE)
        for rows in left:
            own = key[rows]
            new = of_key[own] == _NONE
            of_key[own[new][::-1]] = rows[new][::-1]  # of rows that share a key the first stays
            leader[rows] = first = of_key[own]
            is_other = part[first] != part[rows]
            if is_other.any():
                later.append(rows[is_other])
        left = later
    leads = leader == np.arange(key.size, dtype=np.uint32)
    number = np.cumsum(leads, dtype=np.uint32)
    number -= 1
    return number[leader], np.flatnonzero(leads).astype(np.uint32)

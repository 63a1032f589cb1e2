"""Numbers in the place of texts: what rows by the million are compared by."""

from __future__ import annotations

__all__ = ["Codes", "numbered", "text_codes"]

import numpy as np
import polars as pl
from numpy.typing import NDArray

Codes = NDArray[np.uint32]


def text_codes(texts: pl.Series) -> Codes:
    """A number for each distinct text of a column, null like the empty one: (rows,)."""
    return texts.fill_null("").cast(pl.Categorical()).to_physical().to_numpy()


def numbered(key: Codes, part: Codes) -> tuple[Codes, Codes]:
    """Number the distinct pairs of key and part in the order of their first rows.

    Its rounds are as many as a key has parts, each over the rows that are left: few arrays, and no table of all pairs.

    Returns
    -------
    number of each row's pair (rows,), and the first row of each pair (pairs,).
    """
    first = np.empty(key.size, dtype=np.uint32)
    of_key = np.empty(int(key.max(initial=0)) + 1, dtype=np.uint32)
    left = np.arange(key.size, dtype=np.uint32)
    while left.size:
        own = key[left]
        of_key[own[::-1]] = left[::-1]  # of rows that share a key the first stays
        leader = of_key[own]
        met = part[leader] == part[left]
        first[left[met]] = leader[met]
        left = left[~met]
    leads = first == np.arange(key.size, dtype=np.uint32)
    return (np.cumsum(leads, dtype=np.uint32) - 1)[first], np.flatnonzero(leads).astype(np.uint32)

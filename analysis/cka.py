"""Centred kernel alignment: do two representations of the same documents have the same geometry?"""

from __future__ import annotations

__all__ = ["CONSTANT", "cka_matrix", "debiased_cka_matrix"]

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CONSTANT = 1e-8
"""Share of the squared size below which what varies is the rounding of float16, not the representation."""
_TILE_ENTRIES = 2**22


def cka_matrix(representations: Sequence[NDArray[np.float32]]) -> Floats:
    """Linear CKA of every pair, biased (Kornblith et al. 2019).

    CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), with K = X X' and L = Y Y' centred. Products are float32,
    sums float64, over tiles of rows.

    Parameters
    ----------
    representations : R arrays (documents, hidden of its own), rows in the same order.

    Returns
    -------
    (R, R), symmetric, 1 on the diagonal; NaN where a representation does not vary.
    """
    return _normalised(_products([_centred_gram(x) for x in representations]))


def debiased_cka_matrix(representations: Sequence[NDArray[np.float32]]) -> Floats:
    """Linear CKA with the unbiased HSIC of Song et al. (2012): its mean is 0 for unrelated representations.

    HSIC = (tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'KL1 / (n-2)) / (n(n-3)), K and L with a zero diagonal; small
    values below 0 are possible.

    Returns
    -------
    (R, R), symmetric; NaN for fewer than 4 documents or where a representation does not vary.
    """
    n = len(representations[0])
    if n < 4:
        return np.full((len(representations),) * 2, np.nan)
    grams = [_centred_gram(x) for x in representations]  # centring changes nothing here but the rounding
    for gram in grams:
        np.fill_diagonal(gram, 0)
    rows = np.stack([gram.sum(1, dtype=np.float64) for gram in grams])  # (R, documents)
    totals = rows.sum(1)
    hsic = _products(grams) + np.outer(totals, totals) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T
    return _normalised(hsic / (n * (n - 3)))


def _centred_gram(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(documents, documents), of float32, with a trace of 1; NaN where nothing varies."""
    centred = x - x.mean(0, dtype=np.float64)
    varies = float((centred**2).sum())
    if varies <= CONSTANT * float((x.astype(np.float64) ** 2).sum()):
        return np.full((len(x), len(x)), np.nan, dtype=np.float32)
    scaled = (centred / np.sqrt(varies)).astype(np.float32)  # CKA does not see the scale; float32 does
    return np.asarray(scaled @ scaled.T)


def _products(grams: Sequence[NDArray[np.float32]]) -> Floats:
    """(R, R): sums over all entries of the products of each two matrices."""
    n = len(grams[0])
    total = np.zeros((len(grams), len(grams)))
    step = max(1, _TILE_ENTRIES // (n * len(grams)))
    for start in range(0, n, step):
        tile = np.stack([gram[start : start + step].ravel() for gram in grams])
        total += (tile @ tile.T).astype(np.float64)
    return total


def _normalised(hsic: Floats) -> Floats:
    own = np.diag(hsic)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = hsic / np.sqrt(np.outer(own, own))
    return np.where(np.outer(own > 0, own > 0), value, np.nan)

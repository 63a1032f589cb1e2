"""Centred kernel alignment: do two representations of the same documents have the same geometry?"""

from __future__ import annotations

__all__ = ["CONSTANT", "cka_matrices", "cka_matrix", "debiased_cka_matrix"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CONSTANT = 1e-8
"""Share of the squared size below which what varies is the rounding of float16, not the representation."""
_TILE = 1024


def cka_matrix(representations: Sequence[NDArray[np.float32]]) -> Floats:
    """Linear CKA of every pair, biased (Kornblith et al. 2019).

    CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), with K = X X' and L = Y Y' centred.

    Parameters
    ----------
    representations : R arrays (documents, hidden of its own), rows in the same order.

    Returns
    -------
    (R, R), symmetric, 1 on the diagonal; NaN where a representation does not vary.
    """
    return cka_matrices(representations)[0]


def debiased_cka_matrix(representations: Sequence[NDArray[np.float32]]) -> Floats:
    """Linear CKA with the unbiased HSIC of Song et al. (2012): its mean is 0 for unrelated representations.

    HSIC = (tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'KL1 / (n-2)) / (n(n-3)), K and L with a zero diagonal; small
    values below 0 are possible.

    Returns
    -------
    (R, R), symmetric; NaN for fewer than 4 documents or where a representation does not vary.
    """
    return cka_matrices(representations)[1]


def cka_matrices(representations: Sequence[NDArray[np.float32]]) -> tuple[Floats, Floats]:
    """Return `cka_matrix` and `debiased_cka_matrix` from one walk over the tiles of K and L.

    Products are float32, sums float64. Of each K only a tile of 1,024 x 1,024 is held, and the half below the
    diagonal is not computed: memory is that of the representations.
    """
    n = len(representations[0])
    scales = [_Scale.of(x) for x in representations]
    products = np.zeros((len(scales), len(scales)))
    rows, diagonal = np.zeros((2, len(scales), n))  # sums of each row of K, and its diagonal
    tiles = [slice(start, min(start + _TILE, n)) for start in range(0, n, _TILE)]
    for place, one in enumerate(tiles):
        left = [scale.centred(x[one]) for scale, x in zip(scales, representations, strict=True)]
        for other in tiles[place:]:
            flat = np.empty((len(scales), len(left[0]), other.stop - other.start), dtype=np.float32)
            for number, (scale, x) in enumerate(zip(scales, representations, strict=True)):
                right = left[number] if one == other else scale.centred(x[other])
                tile = np.matmul(left[number], right.T, out=flat[number])
                rows[number, one] += tile.sum(1, dtype=np.float64)
                if one == other:
                    diagonal[number, one] = np.diagonal(tile)
                else:
                    rows[number, other] += tile.sum(0, dtype=np.float64)
            a_row_each = flat.reshape(len(scales), -1)
            products += (1 if one == other else 2) * (a_row_each @ a_row_each.T).astype(np.float64)
    biased = _normalised(products)
    if n < 4:
        return biased, np.full_like(biased, np.nan)
    products -= diagonal @ diagonal.T
    rows -= diagonal
    totals = rows.sum(1)
    hsic = products + np.outer(totals, totals) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T
    return biased, _normalised(hsic / (n * (n - 3)))


@dataclass(frozen=True)
class _Scale:
    """What centres a representation and gives K a trace of 1; a `factor` of 0 where nothing varies.

    CKA does not see the scale; float32 does.
    """

    mean: NDArray[np.float32]
    factor: np.float32

    @classmethod
    def of(cls, x: NDArray[np.float32]) -> _Scale:
        mean, varies, size = x.mean(0, dtype=np.float64), 0.0, 0.0
        for start in range(0, len(x), _TILE):
            part = x[start : start + _TILE].astype(np.float64)
            varies, size = varies + float(((part - mean) ** 2).sum()), size + float((part**2).sum())
        factor = 1 / np.sqrt(varies) if varies > CONSTANT * size else 0.0
        return cls(mean.astype(np.float32), np.float32(factor))

    def centred(self, part: NDArray[np.float32]) -> NDArray[np.float32]:
        """Some rows of the representation."""
        # in float32: its rounding of the mean shifts all rows alike, and is a hundredth of the time of float64
        out: NDArray[np.float32] = np.subtract(part, self.mean, dtype=np.float32)
        out *= self.factor
        return out


def _normalised(hsic: Floats) -> Floats:
    own = np.diag(hsic)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = hsic / np.sqrt(np.outer(own, own))
    return np.where(np.outer(own > 0, own > 0), value, np.nan)

"""Bootstrap draws over the images of a set of documents: drawn once, the same for every layer and kind of token."""

from __future__ import annotations

__all__ = ["draw_images"]

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis.bootstrap import cluster_weights

_DRAWS = 1000


def draw_images(images: NDArray[np.int64], seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return how often each image comes in each of 1,000 draws, (draws, images), and each document's image.

    Parameters
    ----------
    images : (documents,), codes 0..I-1.
    """
    return _drawn(np.ascontiguousarray(images, dtype=np.int64).tobytes(), seed)


@lru_cache(maxsize=8)
def _drawn(images: bytes, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    return cluster_weights(np.frombuffer(images, dtype=np.int64), _DRAWS, np.random.default_rng(seed))

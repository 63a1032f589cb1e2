"""What a reliability diagram would show by chance if every confidence were right."""

from __future__ import annotations

__all__ = ["consistency_band"]

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis.calibration_measures import BINS, bin_of

Floats = NDArray[np.float64]

_LARGE = 20_000
_GRID = 1000
_BLOCK = 100


def consistency_band(
    confidence: Floats, rng: np.random.Generator, *, draws: int = 500, bins: int = BINS
) -> tuple[Floats, Floats]:
    """Range in which each bin's accuracy falls in 95 % of the draws under perfect calibration (Brocker & Smith 2007).

    Outcomes are redrawn from the confidences, which stay in their bins. Above 20,000 confidences they are rounded to a
    grid of 1,000 points.

    Returns
    -------
    low, high : (bins,), NaN in an empty bin.
    """
    value = np.round(confidence * _GRID) / _GRID if confidence.size > _LARGE else confidence
    value, count = np.unique(value, return_counts=True)
    index = bin_of(value, bins)
    size = np.bincount(index, weights=count, minlength=bins)
    member = np.zeros((value.size, bins))
    member[np.arange(value.size), index] = 1.0
    right = [
        rng.binomial(count, np.clip(value, 0, 1), size=(min(_BLOCK, draws - start), value.size)) @ member
        for start in range(0, draws, _BLOCK)
    ]
    with np.errstate(invalid="ignore"):
        accuracy = np.concatenate(right) / size
    low, high = np.quantile(accuracy, [0.025, 0.975], axis=0)
    return low, high

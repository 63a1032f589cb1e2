"""Smooth calibration error of Blasiok & Nakkiran (2023), for one sample or many weighted draws at once."""

from __future__ import annotations

__all__ = ["smece", "smece_draws"]

import math

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis.bootstrap import level_totals

Floats = NDArray[np.float64]

_GRID = 2048
_DRAW_GRID = 256
_PRECISION = 1e-7
_DRAW_PRECISION = 1e-4
_SMALLEST = 1e-4


def smece(confidence: Floats, correct: Floats) -> float:
    """smECE at the bandwidth s with smECE_s = s (reflected Gaussian kernel).

    smECE_s = integral over t in [0, 1] of abs(mean_i (y_i - f_i) K_s(t, f_i)), K_s the Gaussian reflected at 0 and 1.
    """
    if confidence.size == 0:
        return math.nan
    residual = _deposit(confidence, (correct - confidence)[None], _GRID) / confidence.size
    return float(_fixed_points(residual)[0])


def smece_draws(confidence: Floats, correct: Floats, cluster: NDArray[np.int64], weights: Floats) -> Floats:
    """smECE of each bootstrap draw; `weights` (draws, clusters) says how often a cluster was drawn."""
    low, share = _places(confidence, _DRAW_GRID)
    residual = correct - confidence
    # the highest place closes the grid, so that every draw has all of them
    level = np.concatenate([low, low + 1, [_DRAW_GRID - 1]])
    values = np.concatenate([residual * (1 - share), residual * share, [0.0]])
    residuals = level_totals(weights, np.concatenate([cluster, cluster, [0]]), level, values)
    totals = weights @ np.bincount(cluster, minlength=weights.shape[1])
    return _fixed_points(residuals / totals[:, None], _DRAW_PRECISION)


def _places(confidence: Floats, grid: int) -> tuple[NDArray[np.int64], Floats]:
    """Cell to the left and the share of the next one, on cell centres (j + 1/2) / grid."""
    at = np.clip(confidence * grid - 0.5, 0, grid - 1.000001)
    low = at.astype(np.int64)
    return low, at - low


def _deposit(confidence: Floats, values: Floats, grid: int) -> Floats:
    low, share = _places(confidence, grid)
    left = np.array([np.bincount(low, weights=row * (1 - share), minlength=grid) for row in values])
    right = np.array([np.bincount(low + 1, weights=row * share, minlength=grid) for row in values])
    return np.asarray(left + right)


def _fixed_points(residual: Floats, precision: float = _PRECISION) -> Floats:
    """Solve smECE_s = s in each row of residual masses by bisection: smECE_s falls with s.

    It lies between abs(sum) (the limit of large s) and sum of abs (that of small s), and so does the solution. On cell
    centres the reflected Gaussian is diagonal in the cosine basis: frequency k shrinks by exp(-(pi k s)^2 / 2).
    """
    from scipy.fft import dct, idct

    spectrum = dct(residual, axis=1)
    frequency = np.pi * np.arange(residual.shape[1])
    low = np.maximum(np.abs(residual.sum(axis=1)), _SMALLEST)
    high = np.maximum(np.abs(residual).sum(axis=1), low)
    while np.any(high - low > precision):
        middle = (low + high) / 2
        smooth = idct(spectrum * np.exp(-((frequency * middle[:, None]) ** 2) / 2), axis=1)
        above = np.abs(smooth).sum(axis=1) > middle
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray((low + high) / 2)

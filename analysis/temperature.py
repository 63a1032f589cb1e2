"""One temperature, fitted on half of the clusters and judged on the other half."""

from __future__ import annotations

__all__ = ["HeldOut", "fit_temperature", "held_out", "temper"]

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis.calibration_measures import binary_log_loss, ece
from vlm_backbones.analysis.options import Options, softmax

Floats = NDArray[np.float64]

_LOG_RANGE = (math.log(0.02), math.log(50.0))


@dataclass(frozen=True)
class HeldOut:
    """Temperature from the first half of the clusters; ece and nll of the other half without and with it."""

    temperature: float = math.nan
    ece_heldout_before: float = math.nan
    ece_heldout_after: float = math.nan
    nll_heldout_before: float = math.nan
    nll_heldout_after: float = math.nan


def in_first_half(clusters: Sequence[str]) -> NDArray[np.bool_]:
    """Split by a hash of the cluster, so that the halves depend on nothing else and share no image."""
    half = {name: hashlib.sha256(name.encode()).digest()[0] < 128 for name in set(clusters)}
    return np.array([half[name] for name in clusters], dtype=bool)


def temper(confidence: Floats, temperature: float) -> Floats:
    """sigmoid(logit(c) / T), for a confidence without options."""
    c = np.clip(confidence, 1e-12, 1 - 1e-12)
    return np.asarray(1 / (1 + np.exp(-np.log(c / (1 - c)) / temperature)))


def fit_temperature(loss: Callable[[float], float]) -> float:
    """Temperature between 0.02 and 50 with the smallest loss (Guo et al. 2017)."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda log_t: loss(math.exp(log_t)), bounds=_LOG_RANGE, method="bounded")
    return math.exp(float(found.x))


def held_out(
    confidence: Floats,
    correct: Floats,
    first: NDArray[np.bool_],
    options: Options | None = None,
) -> HeldOut:
    """Fit where `first`, judge elsewhere.

    Parameters
    ----------
    confidence, correct : (n,) the confidence in the answer and whether it was right.
    first : (n,) which documents fit the temperature.
    options : of the same documents, each with a right option; None for single confidences.
    """
    if first.sum() < 2 or (~first).sum() < 2:
        return HeldOut()

    def nll(where: NDArray[np.bool_], t: float) -> float:
        if options is None:
            return binary_log_loss(temper(confidence[where], t), correct[where])
        some = options.where(where)
        chosen = softmax(some.logits, some.count, t)[np.arange(len(some.right)), some.right]
        return float(-np.log(np.maximum(chosen, 1e-15)).mean())

    def tempered(where: NDArray[np.bool_], t: float) -> Floats:
        if options is None:
            return temper(confidence[where], t)
        some = options.where(where)
        return np.asarray(softmax(some.logits, some.count, t)[np.arange(len(some.answered)), some.answered])

    t = fit_temperature(lambda value: nll(first, value))
    rest = ~first
    before, after = ece(tempered(rest, 1.0), correct[rest]), ece(tempered(rest, t), correct[rest])
    return HeldOut(t, before, after, nll(rest, 1.0), nll(rest, t))

"""One temperature, fitted on half of the clusters and judged on the other half."""

from __future__ import annotations

__all__ = ["HeldOut", "at_limit", "fit_temperature", "held_out", "temper"]

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis.calibration_measures import binary_log_loss, ece
from vlm_backbones.analysis.options import Options, softmax

Floats = NDArray[np.float64]

_LOWEST, _HIGHEST = 0.02, 50.0
_LOG_RANGE = (math.log(_LOWEST), math.log(_HIGHEST))


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


def at_limit(temperature: float) -> str:
    """The limit that a temperature ran into, empty where it did not (NaN too)."""
    ends = (end for end in (_LOWEST, _HIGHEST) if abs(math.log(temperature / end)) < 0.01)
    return next((f"{end:g}" for end in ends), "")


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
    options : of the same documents, each with a right option; None for single confidences, whose fit is undefined where
        the first half is all right or all wrong.
    """
    if first.sum() < 2 or (~first).sum() < 2 or (options is None and np.ptp(correct[first]) == 0):
        return HeldOut()

    rest = ~first
    if options is None:
        losses = [_single_loss(confidence[half], correct[half]) for half in (first, rest)]
        t = fit_temperature(losses[0])
        before, after = (temper(confidence[rest], value) for value in (1.0, t))
    else:
        losses = [_option_loss(options.where(half)) for half in (first, rest)]
        t, judged = fit_temperature(losses[0]), options.where(rest)
        before, after = (_at(judged, judged.answered, value) for value in (1.0, t))
    return HeldOut(t, ece(before, correct[rest]), ece(after, correct[rest]), losses[1](1.0), losses[1](t))


def _single_loss(confidence: Floats, correct: Floats) -> Callable[[float], float]:
    return lambda t: binary_log_loss(temper(confidence, t), correct)


def _option_loss(options: Options) -> Callable[[float], float]:
    return lambda t: float(-np.log(np.maximum(_at(options, options.right, t), 1e-15)).mean())


def _at(options: Options, which: NDArray[np.int64], t: float) -> Floats:
    """Probability of one option of each document at a temperature."""
    return np.asarray(softmax(options.logits, options.count, t)[np.arange(which.size), which])

"""Risk-coverage curves on a grid of coverages, with bootstrap bands: pure functions of equally long arrays."""

from __future__ import annotations

__all__ = ["risk_at", "risk_band"]

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis.bootstrap import cluster_weights
from vlm_backbones.analysis.calibration_measures import risk_coverage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LARGE = 20_000
_GRID = 1000
_BLOCK = 100
_DENSE = 4_000_000


def risk_at(confidence: Floats, correct: Floats, coverage: Floats) -> Floats:
    """Expected error rate among the ceil(coverage * n) most confident answers; NaN where there is none.

    The expectation is over the random order of equal confidences, as in `calibration_measures.risk_coverage`.
    """
    n = confidence.size
    if n == 0:
        return np.full(coverage.size, np.nan)
    return np.asarray(risk_coverage(confidence, correct)[_answers(coverage, n).astype(int) - 1])


def risk_band(
    confidence: Floats, correct: Floats, cluster: Ints, coverage: Floats, draws: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Pointwise 95 % percentile band of `risk_at`; questions that share a cluster are drawn together.

    Above 20,000 answers the draws see confidences on a grid of 1,000 points.

    Returns
    -------
    low, high : (coverages,)
    """
    n = confidence.size
    if n == 0:
        return np.full(coverage.size, np.nan), np.full(coverage.size, np.nan)
    from scipy.sparse import csr_matrix

    weights, group = cluster_weights(cluster, draws, rng)
    ranked = np.round(confidence * _GRID) if n > _LARGE else confidence
    levels, place = np.unique(-ranked, return_inverse=True)
    shape = (weights.shape[1], levels.size)
    answers, errors = (csr_matrix((values, (group, place)), shape=shape) for values in (np.ones(n), 1 - correct))
    if shape[0] * shape[1] < _DENSE:  # many answers on a small grid
        answers, errors = answers.toarray(), errors.toarray()
    risks = []
    for start in range(0, draws, _BLOCK):
        block = weights[start : start + _BLOCK]
        for count, wrong in zip(np.cumsum(block @ answers, axis=1), np.cumsum(block @ errors, axis=1), strict=True):
            # Within a tie the expected number of errors is linear in the number of answers taken.
            k = _answers(coverage, count[-1])
            risks.append(np.interp(k, np.append(0.0, count), np.append(0.0, wrong)) / k)
    low, high = np.quantile(np.array(risks), [0.025, 0.975], axis=0)
    return low, high


def _answers(coverage: Floats, n: float) -> Floats:
    """How many answers a coverage takes: at least one; 1e-9 forgives the rounding of 0.07 * 100."""
    return np.maximum(1.0, np.ceil(coverage * n - 1e-9))

"""Many small linear models on one set of features at once: ridge and multinomial logistic regression.

A probe is fitted once a fold, penalty and control; on features that are shared, all of these are columns of the same
few matrix products.
"""

from __future__ import annotations

__all__ = ["ridge", "softmax_regression"]

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_STEPS = 300


def ridge(features: Floats, targets: Floats, penalties: Floats) -> tuple[Floats, Floats]:
    """Minimise |y - b - X w|^2 + penalty |w|^2 for every penalty and target.

    Parameters
    ----------
    features : (n, k).
    targets : (n, targets).
    penalties : (penalties,), above 0.

    Returns
    -------
    weights : (penalties, k, targets)
    intercepts : (penalties, targets)
    """
    centre, mean = features.mean(0), targets.mean(0)
    values, vectors = np.linalg.eigh((features - centre).T @ (features - centre))
    moved = vectors.T @ ((features - centre).T @ (targets - mean))  # (k, targets)
    weights = vectors @ (moved / (np.maximum(values, 0)[None, :, None] + penalties[:, None, None]))
    return weights, mean - centre @ weights


def softmax_regression(
    features: Floats,
    labels: NDArray[np.int64],
    used: NDArray[np.bool_],
    penalties: Floats,
    *,
    tolerance: float = 1e-3,
) -> tuple[Floats, Floats]:
    """Minimise the summed cross-entropy + penalty / 2 |W|^2 of B multinomial logistic regressions.

    The same optimum as scikit-learn's `LogisticRegression(C=1/penalty)`, by Nesterov's accelerated gradient with
    restarts (O'Donoghue & Candes 2015); on standardised components it takes a few dozen steps.

    Parameters
    ----------
    features : (n, k), shared by all.
    labels : (B, n), 0..K-1.
    used : (B, n), which rows each one is fitted on.
    penalties : (B,), above 0.
    tolerance : the largest entry of the gradient a row at which to stop.

    Returns
    -------
    weights : (B, k, K)
    intercepts : (B, K)
    """
    n, width = len(features), features.shape[1] + 1
    classes, problems = int(labels.max()) + 1, len(labels)
    wide = np.column_stack([features, np.ones(n)])  # the last column is the intercept
    mask = used.T[:, None].astype(float)  # (n, 1, B): problems last, so that sums over classes run along memory
    one_hot = (labels.T[:, None] == np.arange(classes)[:, None]) * mask  # (n, K, B)
    target = (wide.T @ one_hot.reshape(n, -1)).reshape(width, classes, problems)
    step = 1 / (0.5 * _largest_eigenvalues(wide, used) + penalties)
    decay = np.append(np.ones(width - 1), 0.0)[:, None, None] * penalties
    weights = ahead = np.zeros((width, classes, problems))
    momentum = np.ones(problems)
    for _ in range(_STEPS):
        share = np.exp(wide @ ahead.reshape(width, -1)).reshape(n, classes, problems)
        share *= mask / share.sum(1, keepdims=True)
        gradient = (wide.T @ share.reshape(n, -1)).reshape(width, classes, problems) - target + decay * ahead
        moved = ahead - step * gradient
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        uphill = np.einsum("wkb,wkb->b", ahead - moved, moved - weights) > 0
        ahead = moved + np.where(uphill, 0.0, (momentum - 1) / following) * (moved - weights)
        weights, momentum = moved, np.where(uphill, 1.0, following)
        if float(np.abs(gradient).max()) < tolerance * n:
            break
    by_problem = weights.transpose(2, 0, 1)
    return by_problem[:, :-1], by_problem[:, -1]


def _largest_eigenvalues(wide: Floats, used: NDArray[np.bool_]) -> Floats:
    masks, which = np.unique(used, axis=0, return_inverse=True)
    return np.array([np.linalg.eigvalsh(wide[rows].T @ wide[rows])[-1] for rows in masks])[which.ravel()]

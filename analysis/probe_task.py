"""One probe: what a linear model reads off a representation, judged on images that it has not seen."""

from __future__ import annotations

__all__ = ["COMPONENTS", "Column", "grouped_folds", "predict_folds"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis.cka import CONSTANT
from vlm_backbones.analysis.linear_probes import ridge, softmax_regression

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COMPONENTS = 32
OUTER_FOLDS = 5
INNER_FOLDS = 3
RIDGE_PENALTIES = np.array([1.0, 10.0, 100.0, 1000.0, 10_000.0])
LOGISTIC_PENALTIES = np.array([10.0, 100.0, 1000.0])


@dataclass(frozen=True)
class Column:
    """What is predicted: numbers (documents,), or class codes 0..K-1 where `classes` is K."""

    values: Floats
    classes: int = 0


def grouped_folds(groups: Ints, folds: int, seed: int) -> Ints:
    """Return each document's fold; documents of one group (image) share it, groups are dealt out at random."""
    count = int(groups.max()) + 1
    dealt = np.random.default_rng([seed, count]).permutation(count) % folds
    return np.asarray(dealt[groups], dtype=np.int64)


def predict_folds(features: NDArray[np.float32], columns: Sequence[Column], groups: Ints, *, seed: int) -> list[Floats]:
    """Predict each column out of fold, by nested cross-validation grouped by image.

    In each training fold: at most 32 principal components whatever the width, standardised;
    ridge for numbers, multinomial logistic regression for classes; the penalty chosen by three inner folds.

    Parameters
    ----------
    features : (documents, hidden).
    groups : (documents,), codes 0..G-1.

    Returns
    -------
    For each column (2, documents): the prediction (number or class code), and what the training fold's mean or most
    common class would have said.
    """
    folds = grouped_folds(groups, OUTER_FOLDS, seed)
    numbers = [index for index, column in enumerate(columns) if not column.classes]
    classes = sorted({column.classes for column in columns if column.classes})
    results = [np.full((2, len(groups)), np.nan) for _ in columns]
    for fold in range(OUTER_FOLDS):
        train, test = folds != fold, folds == fold
        if not test.any() or not train.any():
            continue
        known, unseen = _components(features, train, test)
        inner = grouped_folds(_codes(groups[train]), INNER_FOLDS, seed + 1)
        chosen = [(numbers, _predict_numbers)] if numbers else []
        for count in classes:
            members = [index for index, column in enumerate(columns) if column.classes == count]
            chosen.append((members, _predict_classes))
        for members, predict in chosen:
            values = np.column_stack([columns[index].values[train] for index in members])
            predicted, plain = predict(known, unseen, values, inner)
            for place, index in enumerate(members):
                results[index][0, test], results[index][1, test] = predicted[:, place], plain[place]
    return results


def _codes(groups: Ints) -> Ints:
    return np.asarray(np.unique(groups, return_inverse=True)[1], dtype=np.int64)


def _components(
    features: NDArray[np.float32], train: NDArray[np.bool_], test: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Standardised principal components of both parts, fitted on the training one.

    Directions of equal variance (words that one question has) are kept together or left out together: which of them
    come first is rounding, which another machine does otherwise.
    """
    centre = features[train].mean(0, dtype=np.float64)
    known, unseen = (features[rows].astype(np.float64) - centre for rows in (train, test))
    nothing = np.zeros((len(known), 1)), np.zeros((len(unseen), 1))
    if (known**2).sum() <= CONSTANT * (features[train].astype(np.float64) ** 2).sum():
        return nothing
    # the smaller of the two Gram matrices holds the same components as a singular value decomposition
    if known.shape[0] < known.shape[1]:
        values, left = np.linalg.eigh(known @ known.T)
        values, left = values[::-1], left[:, ::-1]
        axes = known.T @ left
    else:
        values, axes = np.linalg.eigh(known.T @ known)
        values, axes = values[::-1], axes[:, ::-1]
    kept = min(COMPONENTS, int((values > values[0] * CONSTANT).sum()))
    if kept < len(values):
        kept = int((values[:kept] - values[kept] > values[0] * CONSTANT).sum())
    if not kept:
        return nothing
    axes = axes[:, :kept]
    scale = (known @ axes).std(0)
    return known @ axes / scale, unseen @ axes / scale


def _predict_numbers(known: Floats, unseen: Floats, values: Floats, inner: Ints) -> tuple[Floats, Floats]:
    losses = np.zeros((len(RIDGE_PENALTIES), values.shape[1]))
    for fold in range(INNER_FOLDS):
        fit, held = inner != fold, inner == fold
        weights, intercepts = ridge(known[fit], values[fit], RIDGE_PENALTIES)
        losses += ((known[held] @ weights + intercepts[:, None] - values[held]) ** 2).sum(1)
    best = losses.argmin(0)  # (targets,)
    weights, intercepts = ridge(known, values, RIDGE_PENALTIES)
    every = np.arange(values.shape[1])
    return unseen @ weights[best, :, every].T + intercepts[best, every], values.mean(0)


def _predict_classes(known: Floats, unseen: Floats, values: Floats, inner: Ints) -> tuple[Floats, Floats]:
    labels = values.astype(np.int64).T  # (targets, n)
    targets, n = labels.shape
    count, folds = len(LOGISTIC_PENALTIES), np.arange(INNER_FOLDS)
    # every target with every penalty on every inner fold
    used = np.tile(inner != folds[:, None], (targets * count, 1))
    penalties = np.tile(np.repeat(LOGISTIC_PENALTIES, INNER_FOLDS), targets)
    weights, intercepts = softmax_regression(known, np.repeat(labels, count * INNER_FOLDS, axis=0), used, penalties)
    said = (known @ weights + intercepts[:, None]).argmax(-1)  # (problems, n)
    right = (said == np.repeat(labels, count * INNER_FOLDS, axis=0)) & ~used
    best = right.sum(1).reshape(targets, count, INNER_FOLDS).sum(-1).argmax(1)
    final = np.ones((targets, n), dtype=bool)
    weights, intercepts = softmax_regression(known, labels, final, LOGISTIC_PENALTIES[best])
    common = np.array([np.bincount(row).argmax() for row in labels], dtype=float)
    return (unseen @ weights + intercepts[:, None]).argmax(-1).T.astype(float), common

"""Is the inside of one backbone more stable than that of another? One number over layers and perturbations."""

from __future__ import annotations

__all__ = ["PERTURBATIONS", "stability_difference"]

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis.states import TaskStates
from vlm_backbones.analysis.table_stability import clusters_of, document_weights, shared_states, stability_draws

PERTURBATIONS = ("jpeg40", "noise05", "shift4", "paraphrase")
"""Changes that leave the right answer as it is; swap is the baseline that does not."""
_TOKEN_TYPE = "last_prompt"
_States = Mapping[tuple[str, str, str], TaskStates]


def stability_difference(
    samples: pl.DataFrame, states: _States, task: str, older: Sequence[str], newer: Sequence[str], *, seed: int = 0
) -> tuple[float, NDArray[np.float64], int, int, list[str]] | None:
    """Mean stability of the newer runs minus that of the older, on the documents that all of them kept.

    Returns
    -------
    value, its draws over images, documents, documents left out, and the conditions; None where a run has no states.
    """
    runs = [*older, *newer]
    conditions = [name for name in PERTURBATIONS if all((run, task, name) in states for run in runs)]
    if not conditions or not all((run, task, "clean") in states for run in runs):
        return None
    if not all(_TOKEN_TYPE in states[run, task, "clean"].token_types for run in runs):
        return None
    kept = [states[run, task, name].doc_keys for run in runs for name in ("clean", *conditions)]
    documents = set(kept[0]).intersection(*kept[1:])
    if len(documents) < 2:
        return None
    weights = document_weights(clusters_of(samples, runs[0], task), sorted(documents), seed)
    means = [_mean_stability(states, run, task, conditions, documents, weights) for run in runs]
    values = np.mean(means[len(older) :], axis=0) - np.mean(means[: len(older)], axis=0)
    return float(values[0]), values[1:], len(documents), len(set().union(*kept)) - len(documents), conditions


def _mean_stability(
    states: _States, run: str, task: str, conditions: Sequence[str], documents: set[str], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(1 + draws,): mean over conditions and layers."""
    clean, found = states[run, task, "clean"], []
    for condition in conditions:
        for layer in clean.layers:
            if layer > 0:
                before, after, keys = shared_states(clean, states[run, task, condition], layer, _TOKEN_TYPE)
                rows = [index for index, key in enumerate(keys) if key in documents]
                value, drawn = stability_draws(before[rows], after[rows], weights)
                found.append(np.append(value, drawn))
    return np.asarray(np.mean(found, axis=0))

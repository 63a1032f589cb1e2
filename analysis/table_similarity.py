"""Table `similarity`: CKA of every layer of every run with every other, by kind of token."""

from __future__ import annotations

__all__ = ["similarity"]

from collections.abc import Iterator, Mapping
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import polars as pl

from vlm_backbones.analysis.cka import cka_matrices
from vlm_backbones.analysis.columns import build_table
from vlm_backbones.analysis.states import TaskStates


def similarity(states: Mapping[tuple[str, str, str], TaskStates]) -> pl.DataFrame:
    """Compare the clean states of all runs, layer by layer: each layer of run_a with each layer of run_b.

    All runs are compared on the documents for which each of them has such tokens; `n_missing` counts the others.
    """
    rows: list[dict[str, Any]] = []
    for task in dict.fromkeys(task for _, task, condition in states if condition == "clean"):
        of_task = [found for (_, name, condition), found in states.items() if (name, condition) == (task, "clean")]
        for token_type in dict.fromkeys(name for found in of_task for name in found.token_types):
            having = [found for found in of_task if token_type in found.token_types]
            rows += [{"task": task, "token_type": token_type} | row for row in _pairs(having, token_type)]
    return build_table("similarity", rows)


def _pairs(having: list[TaskStates], token_type: str) -> Iterator[dict[str, Any]]:
    places = [(found, layer) for found in having for layer in found.layers]
    documents = sorted(set.union(*(set(found.doc_keys) for found in having)))
    aligned = [_aligned(found, layer, token_type, documents) for found, layer in places]
    known = np.logical_and.reduce([~np.isnan(x[:, 0]) for x in aligned])
    counts = {"n": int(known.sum()), "n_missing": int((~known).sum())}
    if counts["n"] == 0:
        return
    if not known.all():
        aligned = [x[known] for x in aligned]
    biased, debiased = cka_matrices(aligned)
    at = {(found.run, layer): index for index, (found, layer) in enumerate(places)}
    for a, b in combinations_with_replacement(having, 2):
        for layer_a in a.layers:
            for layer_b in b.layers:
                i, j = at[a.run, layer_a], at[b.run, layer_b]
                place = {"run_a": a.run, "layer_a": layer_a, "run_b": b.run, "layer_b": layer_b}
                yield place | {"cka": biased[i, j], "cka_debiased": debiased[i, j]} | counts


def _aligned(found: TaskStates, layer: int, token_type: str, documents: list[str]) -> np.ndarray:
    """(documents, hidden) in a common order, NaN where the run has no such document or token."""
    vectors = found.vectors(layer, token_type)
    place = {key: index for index, key in enumerate(found.doc_keys)}
    if found.doc_keys == documents:  # these may be gigabytes
        return vectors
    rows = np.array([place.get(key, -1) for key in documents])
    return np.where(rows[:, None] >= 0, vectors[rows], np.float32(np.nan))

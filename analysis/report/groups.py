"""Significance groups: letters that tell which runs of a task cannot be told apart."""

from __future__ import annotations

__all__ = ["score_letters"]

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis.compact_letters import compact_letters
from vlm_backbones.analysis.record import lower_is_better

_LEVEL = 0.05
_MOST_LETTERS = 12


def score_letters(scores: pl.DataFrame, agreement: pl.DataFrame, runs: Sequence[str]) -> dict[tuple[str, str], str]:
    """Letters of each (task, run), "a" for the best score; none for a task with fewer than two compared runs or
    with more than 12 overlapping groups, whose letters nobody could read.

    Two runs are told apart by the paired test of `agreement` on their scores, Holm over the pairs of the task.

    Parameters
    ----------
    scores : the headline metric's rows of the table `scores`.
    """
    letters: dict[tuple[str, str], str] = {}
    for task in dict.fromkeys(scores["task"]):
        values = dict(scores.filter(task=task).select("run", "value").iter_rows())
        pairs = agreement.filter(pl.col("n") > 0, task=task) if agreement.height else agreement
        best_first = 1 if lower_is_better(str(scores.filter(task=task)["metric"][0])) else -1
        ranked = sorted((run for run in runs if run in values), key=lambda run: best_first * values[run])
        if len(ranked) < 2 or not pairs.height:
            continue
        found = compact_letters(_told_apart(pairs.to_dicts(), ranked))
        if len(set("".join(found))) > _MOST_LETTERS:
            continue
        letters |= {(task, run): text for run, text in zip(ranked, found, strict=True)}
    return letters


def _told_apart(pairs: list[dict[str, Any]], ranked: Sequence[str]) -> NDArray[np.bool_]:
    """(runs, runs): whether two runs differ at 5 %."""
    place = {run: index for index, run in enumerate(ranked)}
    differ = np.zeros((len(ranked), len(ranked)), dtype=bool)
    for row in pairs:
        is_told = row["p_holm"] is not None and row["p_holm"] < _LEVEL
        if is_told and row["run_a"] in place and row["run_b"] in place:
            i, j = place[row["run_a"]], place[row["run_b"]]
            differ[i, j] = differ[j, i] = True
    return differ

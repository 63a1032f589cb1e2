"""Significance groups: letters that tell which runs of a task cannot be told apart."""

from __future__ import annotations

__all__ = ["pair_p", "score_letters"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis.compact_letters import compact_letters
from vlm_backbones.analysis.many_measures import holm
from vlm_backbones.analysis.record import lower_is_better

_LEVEL = 0.05
_MOST_LETTERS = 12
_Z = 1.959963984540054


def score_letters(scores: pl.DataFrame, agreement: pl.DataFrame, runs: Sequence[str]) -> dict[tuple[str, str], str]:
    """Letters of each (task, run), "a" for the best score; none for a task with fewer than two compared runs or
    with more than 12 overlapping groups, whose letters nobody could read.

    Two runs are told apart by the paired test of `agreement`, Holm over the pairs of the task. That test is about right
    and wrong: where scores are finer, the p-value comes from the interval of the score difference instead (normal).

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
    p = (
        [row["p_holm"] for row in pairs]
        if all(map(_is_binary, pairs))
        else holm(np.array(list(map(_interval_p, pairs))))
    )
    differ = np.zeros((len(ranked), len(ranked)), dtype=bool)
    for row, adjusted in zip(pairs, p, strict=True):
        if row["run_a"] in place and row["run_b"] in place and adjusted is not None and adjusted < _LEVEL:
            i, j = place[row["run_a"]], place[row["run_b"]]
            differ[i, j] = differ[j, i] = True
    return differ


def pair_p(row: Mapping[str, Any]) -> float:
    """p-value that two runs score alike: the table's test of right and wrong, or of finer scores their interval's."""
    if not _is_binary(row):
        return _interval_p(row)
    return math.nan if row["p"] is None else float(row["p"])


def _is_binary(row: Mapping[str, Any]) -> bool:
    """Whether the score difference is that of right and wrong."""
    return bool(abs(row["diff"] - (row["n01"] - row["n10"]) / row["n"]) < 1e-9)


def _interval_p(row: Mapping[str, Any]) -> float:
    """Two-sided p-value of a difference from its 95 % interval; NaN where it has none."""
    from scipy.special import ndtr

    error = (row["diff_high"] - row["diff_low"]) / (2 * _Z)
    return float(row["diff"] == 0) if error == 0 else float(2 * ndtr(-abs(row["diff"]) / error))

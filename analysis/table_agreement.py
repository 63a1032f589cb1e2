"""Tables `agreement`, `agreement_all` and `solved_by`."""

from __future__ import annotations

__all__ = ["agreement", "agreement_all", "compare_all_runs", "compare_runs", "solved_by"]

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from vlm_backbones.analysis import many_measures as many
from vlm_backbones.analysis.columns import build_table
from vlm_backbones.analysis.compare_pair import Comparison, compare_pair
from vlm_backbones.analysis.interval_rows import IntervalRow, interval_rows
from vlm_backbones.analysis.task_runs import TaskRuns, task_runs


def agreement(
    samples: pl.DataFrame, *, condition: str = "clean", bootstrap: int = 10_000, seed: int = 0
) -> pl.DataFrame:
    """Compare every two runs, task by task; run_a is the one that comes first in `samples`.

    Parameters
    ----------
    samples : the frame of `read_samples`.
    condition : the condition to compare under.
    bootstrap : draws of each interval; `seed` makes them repeatable.

    Returns
    -------
    polars.DataFrame
        The columns of the table `agreement`; NaN and a note where a measure is undefined.

    Raises
    ------
    LogError
        If the runs of a task saw different data.
    """
    return compare_runs(task_runs(samples, condition), bootstrap=bootstrap, seed=seed)[0]


def compare_runs(
    tasks: Sequence[TaskRuns], *, bootstrap: int = 10_000, seed: int = 0
) -> tuple[pl.DataFrame, list[IntervalRow]]:
    """The table `agreement`, and the rows of `intervals` for its measures."""
    rows: list[dict[str, Any]] = []
    ranges: list[IntervalRow] = []
    for of in tasks:
        runs, family = Comparison(of), []
        for index, (a, b) in enumerate(combinations(of.runs, 2)):
            row, found = compare_pair(runs, a, b, bootstrap, np.random.default_rng([seed, index]))
            family.append(row)
            ranges += found
        p = np.array([row["p"] for row in family])
        for row, by_holm, by_bh in zip(family, many.holm(p), many.benjamini_hochberg(p), strict=True):
            rows.append(row | {"p_holm": by_holm, "q_bh": by_bh})
    return build_table("agreement", rows), ranges


def agreement_all(samples: pl.DataFrame, *, condition: str = "clean", seed: int = 0) -> pl.DataFrame:
    """Agreement of all runs of a task at once: alpha, Fleiss' kappa, Cochran's Q, the oracle's accuracy."""
    return compare_all_runs(task_runs(samples, condition), seed=seed)[0]


def compare_all_runs(
    tasks: Sequence[TaskRuns], *, bootstrap: int = 10_000, seed: int = 0
) -> tuple[pl.DataFrame, list[IntervalRow]]:
    """The table `agreement_all`, and the rows of `intervals` for its measures."""
    rows: list[dict[str, Any]] = []
    ranges: list[IntervalRow] = []
    for of in tasks:
        if len(of.runs) < 2:
            continue
        paired, correct = of.paired, of.paired.correct
        complete = ~np.isnan(correct).any(axis=0)
        q, p = many.cochran_q(correct)
        notes = [] if complete.any() else ["no question was scored by every run"]
        if math.isnan(q):
            notes.append("the runs solve the same questions: Cochran's Q is undefined")
        elif not paired.singletons:
            p = many.cochran_q_cluster_p(correct, paired.cluster, np.random.default_rng(seed))
            notes.append("p by cluster permutation")
        counts = {"n": int(complete.sum()), "n_missing": int((~complete).sum())}
        values, drawn = many.together(correct, paired.cluster, bootstrap, np.random.default_rng([seed, 1]))
        place = {"table": "agreement_all", "task": of.task, "runs": " + ".join(of.runs)}
        ranges += interval_rows(place, values, drawn, counts)
        row = {"task": of.task, "runs": place["runs"], **counts, **values, "cochran_q": q, "cochran_p": p}
        rows.append(row | {"note": "; ".join(notes)})
    return build_table("agreement_all", rows), ranges


def solved_by(tasks: Sequence[TaskRuns]) -> pl.DataFrame:
    """Count the questions by the exact set of runs that solved them, over questions that every run scored."""
    rows: list[dict[str, Any]] = []
    for of in tasks:
        correct = of.paired.correct
        complete = correct[:, ~np.isnan(correct).any(axis=0)]
        sets, counts = np.unique(complete.T.astype(bool), axis=0, return_counts=True)
        for place in np.argsort(-counts, kind="stable"):
            right = [run for run, hit in zip(of.runs, sets[place], strict=True) if hit]
            rows.append({"task": of.task, "runs_right": " + ".join(right) or "none", "count": int(counts[place])})
    return build_table("solved_by", rows)

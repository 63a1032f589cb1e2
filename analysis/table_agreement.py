"""Tables `agreement`, `agreement_all` and `solved_by`."""

from __future__ import annotations

__all__ = ["agreement", "agreement_all", "by_task", "runs_of", "solved_by"]

import math
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from vlm_backbones.analysis import many_measures as many
from vlm_backbones.analysis.columns import build_table
from vlm_backbones.analysis.compare_pair import compare_pair
from vlm_backbones.analysis.pairing import pair_runs


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
    rows: list[dict[str, Any]] = []
    for task, part in by_task(samples, condition):
        runs = runs_of(part)
        family = [
            compare_pair(part, task, a, b, bootstrap, np.random.default_rng([seed, index]))
            for index, (a, b) in enumerate(combinations(runs, 2))
        ]
        p = np.array([row["p"] for row in family])
        for row, by_holm, by_bh in zip(family, many.holm(p), many.benjamini_hochberg(p), strict=True):
            rows.append(row | {"p_holm": by_holm, "q_bh": by_bh})
    return build_table("agreement", rows)


def agreement_all(samples: pl.DataFrame, *, condition: str = "clean", seed: int = 0) -> pl.DataFrame:
    """Agreement of all runs of a task at once: alpha, Fleiss' kappa, Cochran's Q, the oracle's accuracy."""
    rows: list[dict[str, Any]] = []
    for task, part in by_task(samples, condition):
        runs = runs_of(part)
        if len(runs) < 2:
            continue
        paired = pair_runs(part, runs)
        complete = ~np.isnan(paired.correct).any(axis=0)
        q, p = many.cochran_q(paired.correct)
        notes = [] if complete.any() else ["no question was scored by every run"]
        if math.isnan(q):
            notes.append("the runs solve the same questions: Cochran's Q is undefined")
        elif not paired.singletons:
            p = many.cochran_q_cluster_p(paired.correct, paired.cluster, np.random.default_rng(seed))
            notes.append("p by cluster permutation")
        solved = paired.correct[:, complete].max(axis=0) if complete.any() else np.array([np.nan])
        rows.append(
            {
                "task": task,
                "runs": " + ".join(runs),
                "n": int(complete.sum()),
                "n_missing": int((~complete).sum()),
                "krippendorff_alpha": many.krippendorff_alpha(paired.correct),
                "fleiss_kappa": many.fleiss_kappa(paired.correct),
                "cochran_q": q,
                "cochran_p": p,
                "oracle_accuracy": float(solved.mean()),
                "note": "; ".join(notes),
            }
        )
    return build_table("agreement_all", rows)


def solved_by(samples: pl.DataFrame, *, condition: str = "clean") -> pl.DataFrame:
    """Count the questions by the exact set of runs that solved them, over questions that every run scored."""
    rows: list[dict[str, Any]] = []
    for task, part in by_task(samples, condition):
        runs = runs_of(part)
        correct = pair_runs(part, runs).correct
        complete = correct[:, ~np.isnan(correct).any(axis=0)]
        sets, counts = np.unique(complete.T.astype(bool), axis=0, return_counts=True)
        for place in np.argsort(-counts, kind="stable"):
            right = [run for run, hit in zip(runs, sets[place], strict=True) if hit]
            rows.append({"task": task, "runs_right": " + ".join(right) or "none", "count": int(counts[place])})
    return build_table("solved_by", rows)


def by_task(samples: pl.DataFrame, condition: str) -> list[tuple[str, pl.DataFrame]]:
    """Split the samples of a condition by task, in order of appearance."""
    frame = samples.filter(pl.col("condition") == condition)
    return [(str(key[0]), part) for key, part in frame.group_by("task", maintain_order=True)]


def runs_of(part: pl.DataFrame) -> list[str]:
    """Runs in order of appearance: the order in which they are compared, oldest first."""
    return part["run"].unique(maintain_order=True).to_list()

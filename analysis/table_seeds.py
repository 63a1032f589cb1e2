"""Table `seeds`: what of a difference between backbones is left when their seeds count as chance."""

from __future__ import annotations

__all__ = ["seeds"]

import math
from itertools import combinations

import numpy as np
import polars as pl

from vlm_backbones.analysis.columns import build_table
from vlm_backbones.analysis.many_measures import holm
from vlm_backbones.analysis.pairing import pair_runs
from vlm_backbones.analysis.samples import Logs
from vlm_backbones.analysis.seed_noise import seed_noise
from vlm_backbones.analysis.task_runs import by_task, runs_of


def seeds(logs: Logs, *, condition: str = "clean") -> pl.DataFrame:
    """Compare every two backbones that have two seeds or more, task by task; Holm over a task's pairs.

    The interval of a difference of shares is cut at -1 and 1, where the scale ends.
    """
    rows = []
    for task, part in by_task(logs.samples, condition):
        runs: dict[str, list[str]] = {}
        for run in runs_of(part):
            runs.setdefault(logs.runs[run].backbone, []).append(run)
        several = {name: of for name, of in runs.items() if len(of) > 1}
        found = []
        for first, second in combinations(several, 2):
            paired = pair_runs(part, [*several[first], *several[second]])
            scored = ~np.isnan(paired.score).any(axis=0)
            n = int(scored.sum())
            row = {"task": task, "backbone_a": first, "backbone_b": second, "n": n, "n_missing": scored.size - n}
            row |= {"seeds_a": len(several[first]), "seeds_b": len(several[second])}
            if n < 2:
                found.append(row | {"note": "fewer than two questions were scored by all seeds"})
                continue
            score, old = paired.score[:, scored], len(several[first])
            cluster = np.unique(paired.cluster[scored], return_inverse=True)[1]
            largest = 1.0 if paired.is_share else math.inf
            noise = seed_noise(score[:old], score[old:], cluster, largest=largest)
            found.append(
                row
                | {"diff": noise.diff, "diff_low": noise.low, "diff_high": noise.high, "df": noise.df, "p": noise.p}
                | {"seed_sd_a": noise.sd_a, "seed_sd_b": noise.sd_b}
            )
        known = [row for row in found if "p" in row]
        for row, p in zip(known, holm(np.array([row["p"] for row in known])), strict=True):
            row["p_holm"] = float(p)
        rows += found
    return build_table("seeds", rows)

"""What the first screen compares: the newest backbone with the oldest, task by task, over all their seeds."""

from __future__ import annotations

__all__ = ["Change", "Changes", "find_changes"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from vlm_backbones.analysis.backbone_pair import BackbonePair
from vlm_backbones.analysis.bootstrap import interval, wilson
from vlm_backbones.analysis.many_measures import holm
from vlm_backbones.analysis.record import lower_is_better
from vlm_backbones.analysis.report.view import View
from vlm_backbones.analysis.seed_noise import seed_noise

Ranged = tuple[float, float, float]  # value, low, high

_DRAWS = 10_000


@dataclass(frozen=True)
class Change:
    """One task: score difference (new minus old) with its interval, and the shares right with one side only."""

    task: str
    diff: Ranged
    only_new: Ranged
    only_old: Ranged
    p: float
    n: int
    by_seed: tuple[float, ...] = ()
    with_seeds: Ranged | None = None
    """The difference with an interval that counts the seeds as chance too; None without two seeds of each side."""
    p_holm: float = 1.0
    is_share: bool = True
    """Scores are shares of right answers; else they stay in their own unit, and nothing is right or wrong."""
    lower_is_better: bool = False

    @property
    def side(self) -> str:
        """`better` or `worse` where the interval and Holm's p over the tasks both say so, else `unclear`."""
        _, low, high = self.diff
        if self.p_holm > 0.05 or low <= 0 <= high:
            return "unclear"
        return "better" if (low > 0) != self.lower_is_better else "worse"


@dataclass(frozen=True)
class Changes:
    """The two sides by name, and the tasks that both answered."""

    old: str
    new: str
    seeds: int
    """Runs of the side that has fewer."""
    tasks: list[Change]


def find_changes(view: View, *, is_best: bool = False) -> Changes | None:
    """Compare the last run's backbone with the first run's, over their seeds; None where there is one run only.

    `is_best` compares the runs at the learning rates that a sweep chose, in place of those of the one recipe.
    """
    of = {run: view.logs.runs[run] for run in view.runs if view.logs.runs[run].is_best == is_best}
    if len(of) < 2:
        return None
    first, *_, last = of
    old, new = of[first].group, of[last].group
    older, newer = ([run for run, info in of.items() if info.group == name] for name in (old, new))
    if old == new or len(older) == len(newer) == 1:
        pairs = view.table("agreement", run_a=first, run_b=last)
        found = [_of_row(row) for row in pairs.to_dicts() if row["n"] and row["diff"] == row["diff"]]
        return Changes(first, last, 1, _adjusted(view, found))
    found = [change for task in view.tasks if (change := _over_seeds(view, task, older, newer)) is not None]
    return Changes(old, new, min(len(older), len(newer)), _adjusted(view, found))


def _adjusted(view: View, found: list[Change]) -> list[Change]:
    """Add Holm's p over the tasks, and what kind of score each task has."""
    known = [change for change in found if not np.isnan(change.p)]
    adjusted = dict(zip((change.task for change in known), holm(np.array([c.p for c in known])), strict=True))
    return [
        replace(
            change,
            p_holm=float(adjusted.get(change.task, 1.0)),
            is_share=view.is_share(change.task),
            lower_is_better=lower_is_better(view.logs.headline.get(change.task, "")),
        )
        for change in found
    ]


def _of_row(row: Mapping[str, Any]) -> Change:
    effect = max(1.0, row["design_effect"]) if row["design_effect"] == row["design_effect"] else 1.0

    def share(count: str) -> Ranged:
        """Wilson's interval, n divided by the design effect of shared images."""
        return (row[count] / row["n"], *wilson(row[count] / effect, max(1, round(row["n"] / effect))))

    diff = (row["diff"], row["diff_low"], row["diff_high"])
    p = float("nan") if row["p"] is None else row["p"]
    return Change(str(row["task"]), diff, share("n01"), share("n10"), p=p, n=int(row["n"]))


def _over_seeds(view: View, task: str, older: Sequence[str], newer: Sequence[str]) -> Change | None:
    part = view.samples(task).filter(pl.col("run").is_in([*older, *newer]))
    logged = set(part["run"].unique())
    here = [[run for run in runs if run in logged] for runs in (older, newer)]
    if not all(here):
        return None
    pair = BackbonePair(part, here[0], here[1], _DRAWS, view.seed)
    if not pair.counts[0]:
        return None
    value, drawn = pair.score_difference()
    only_new, only_old = ((of[0], *interval(of[1])) for of in pair.right_with_one())
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    means = pair.paired.score[:, pair.scored].mean(axis=1)
    by_seed = [float(means[len(here[0]) + i] - means[i]) for i in range(min(map(len, here)))]
    return Change(
        task,
        (value, *interval(drawn)),
        only_new,
        only_old,
        p=min(1.0, 2 * (1 + beyond) / (1 + drawn.size)),
        n=pair.counts[0],
        by_seed=tuple(by_seed),
        with_seeds=_with_seeds(pair) if min(map(len, here)) > 1 and pair.counts[0] > 1 else None,
    )


def _with_seeds(pair: BackbonePair) -> Ranged:
    score, old = pair.paired.score[:, pair.scored], len(pair.older)
    cluster = np.unique(pair.paired.cluster[pair.scored], return_inverse=True)[1]
    noise = seed_noise(score[:old], score[old:], cluster)
    return noise.diff, noise.low, noise.high

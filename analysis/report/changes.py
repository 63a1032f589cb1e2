"""What the first screen compares: every two backbones, task by task, over all their seeds."""

from __future__ import annotations

__all__ = ["Change", "Changes", "find_changes"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
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
_MOST_SIDES = 6


@dataclass(frozen=True)
class Change:
    """Two sides on one task: score difference (new minus old) with interval, and the shares right with one only."""

    old: str
    new: str
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
    """Holm's over the tasks of one pair, or over the pairs of the task where there are more."""
    is_share: bool = True
    """Scores are shares of right answers; else they stay in their own unit, and nothing is right or wrong."""
    lower_is_better: bool = False

    @property
    def side(self) -> str:
        """`better` or `worse` where the interval and Holm's p both say so, else `unclear`."""
        _, low, high = self.diff
        if self.p_holm > 0.05 or not (low > 0 or high < 0):
            return "unclear"
        return "better" if (low > 0) != self.lower_is_better else "worse"

    def seen_from(self, side: str) -> Change:
        """The same comparison with this side as the new one."""
        if side == self.new:
            return self
        return replace(
            self,
            old=self.new,
            new=self.old,
            diff=_turned(self.diff),
            only_new=self.only_old,
            only_old=self.only_new,
            by_seed=tuple(-value for value in self.by_seed),
            with_seeds=None if self.with_seeds is None else _turned(self.with_seeds),
        )


def _turned(difference: Ranged) -> Ranged:
    value, low, high = difference
    return -value, -high, -low


@dataclass(frozen=True)
class Changes:
    """The sides that are compared, oldest first, and every two of them on each task that both answered.

    Of more than six sides the first and the last are compared; `others` names the rest.
    """

    sides: list[str]
    seeds: int
    """Runs of the side that has fewest."""
    pairs: list[Change]
    others: list[str]

    @property
    def old(self) -> str:
        """The oldest side."""
        return self.sides[0]

    @property
    def new(self) -> str:
        """The newest side."""
        return self.sides[-1]

    @property
    def tasks(self) -> list[Change]:
        """The newest side against the oldest, task by task."""
        return [pair for pair in self.pairs if (pair.old, pair.new) == (self.old, self.new)]

    @property
    def of_newest(self) -> list[Change]:
        """The newest side against each other one, task by task."""
        return [pair for pair in self.pairs if pair.new == self.new]


def find_changes(view: View, *, is_best: bool = False) -> Changes | None:
    """Compare the backbones of the runs, each over its seeds; None where there is one run only.

    `is_best` compares the runs at the learning rates that a sweep chose, in place of those of the one recipe.
    """
    runs = [run for run in view.runs if view.logs.runs[run].is_best == is_best]
    if len(runs) < 2:
        return None
    groups: dict[str, list[str]] = {}
    for run in runs:
        groups.setdefault(view.logs.runs[run].group, []).append(run)
    if len(groups) == 1:  # seeds of one backbone: each stands for itself
        groups = {run: [run] for run in runs}
    sides = {name if len(of) > 1 else of[0]: of for name, of in groups.items()}
    names = list(sides)
    compared = names if len(names) <= _MOST_SIDES else [names[0], names[-1]]
    found = [
        change
        for task in view.tasks
        for old, new in combinations(compared, 2)
        if (change := _compare(view, task, old, new, sides)) is not None
    ]
    seeds = min(len(sides[name]) for name in compared)
    return Changes(compared, seeds, _adjusted(view, found), [name for name in names if name not in compared])


def _compare(view: View, task: str, old: str, new: str, sides: Mapping[str, Sequence[str]]) -> Change | None:
    older, newer = sides[old], sides[new]
    if len(older) > 1 or len(newer) > 1:
        return _over_seeds(view, task, old, new, older, newer)
    rows = view.table("agreement", task=task, run_a=older[0], run_b=newer[0]).to_dicts()
    return next((_of_row(row, old, new) for row in rows if row["n"] and row["diff"] == row["diff"]), None)


def _adjusted(view: View, found: list[Change]) -> list[Change]:
    """Add Holm's p, and what kind of score each task has.

    Two sides make one family of all tasks; of more, the pairs of a task are one, as in the table `agreement`.
    """
    families: dict[str, list[int]] = {}
    is_one_pair = len({(change.old, change.new) for change in found}) < 2
    for place, change in enumerate(found):
        if not np.isnan(change.p):
            families.setdefault("" if is_one_pair else change.task, []).append(place)
    adjusted: dict[int, float] = {}
    for places in families.values():
        adjusted |= dict(zip(places, holm(np.array([found[place].p for place in places])), strict=True))
    return [
        replace(
            change,
            p_holm=float(adjusted.get(place, 1.0)),
            is_share=view.is_share(change.task),
            lower_is_better=lower_is_better(view.logs.headline.get(change.task, "")),
        )
        for place, change in enumerate(found)
    ]


def _of_row(row: Mapping[str, Any], old: str, new: str) -> Change:
    effect = max(1.0, row["design_effect"]) if row["design_effect"] == row["design_effect"] else 1.0

    def share(count: str) -> Ranged:
        """Wilson's interval, n divided by the design effect of shared images."""
        return (row[count] / row["n"], *wilson(row[count] / effect, max(1, round(row["n"] / effect))))

    diff = (row["diff"], row["diff_low"], row["diff_high"])
    p = float("nan") if row["p"] is None else row["p"]
    return Change(old, new, str(row["task"]), diff, share("n01"), share("n10"), p=p, n=int(row["n"]))


def _over_seeds(view: View, task: str, old: str, new: str, older: Sequence[str], newer: Sequence[str]) -> Change | None:
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
        old,
        new,
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
    noise = seed_noise(score[:old], score[old:], cluster, largest=1.0 if pair.paired.is_share else math.inf)
    return noise.diff, noise.low, noise.high

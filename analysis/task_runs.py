"""The samples of a task under one condition, paired once for all tables."""

from __future__ import annotations

__all__ = ["TaskRuns", "by_task", "runs_of", "task_runs"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from vlm_backbones.analysis._sample_frame import split_by, where
from vlm_backbones.analysis.pairing import Paired, pair_each, pair_runs


@dataclass(frozen=True)
class TaskRuns:
    """Samples of one task under one condition, with the runs in order of appearance, oldest first."""

    task: str
    part: pl.DataFrame
    runs: Sequence[str]

    @cached_property
    def paired(self) -> Paired:
        """The questions of all runs side by side."""
        return pair_runs(self.part, self.runs)

    @cached_property
    def pairs(self) -> Callable[[Sequence[str]], Paired]:
        """The paired questions of some of the runs."""
        return pair_each(self.part, self.paired)


def task_runs(samples: pl.DataFrame, condition: str = "clean") -> list[TaskRuns]:
    """The tasks of a condition, in order of appearance."""
    return [TaskRuns(task, part, runs_of(part)) for task, part in by_task(samples, condition)]


def by_task(samples: pl.DataFrame, condition: str) -> list[tuple[str, pl.DataFrame]]:
    """Split the samples of a condition by task, in order of appearance."""
    return [(key[0], part) for key, part in split_by(where(samples, condition=condition), "task")]


def runs_of(part: pl.DataFrame) -> list[str]:
    """Runs in order of appearance: the order in which they are compared, oldest first."""
    return part["run"].unique(maintain_order=True).to_list()

"""What every section of the report reads: tables, samples, and which runs are drawn in which colour."""

from __future__ import annotations

__all__ = ["Plan", "Range", "View", "best_runs", "look_at", "plural", "sizes"]

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import polars as pl

from vlm_backbones.analysis._sample_frame import where
from vlm_backbones.analysis.report.palette import RUN_COLORS, RunColors
from vlm_backbones.analysis.samples import Logs

MOST_IN_MATRIX = 64
_COLLAPSED_MATRIX = 24


class Range(NamedTuple):
    """An interval, and the n behind it."""

    low: float
    high: float
    n: int


@dataclass(frozen=True)
class View:
    """The inputs of the report.

    `drawn` are the runs that curves show: the first seed of each backbone, of more than eight the eight best;
    `in_matrix` those of the matrices: all up to 64, else the 24 best. Both keep the order of `runs`. Tables always hold
    every run.
    """

    logs: Logs
    tables: Mapping[str, pl.DataFrame]
    runs: list[str]
    tasks: list[str]
    drawn: list[str]
    in_matrix: list[str]
    colors: RunColors
    seed: int

    def table(self, name: str, **where: str) -> pl.DataFrame:
        """Rows of a table that match; an empty frame where the table was not made."""
        table = self.tables.get(name)
        return table.filter(**where) if table is not None and table.height else pl.DataFrame()

    def range(self, table: str, task: str, runs: str, measure: str, question_type: str = "all") -> Range | None:
        """The interval of a number of a table that has no columns for it; None where it has none."""
        return self._ranges.get((table, task, runs, question_type, measure))

    @cached_property
    def _ranges(self) -> dict[tuple[str, ...], Range]:
        table, place = self.table("intervals"), ("table", "task", "runs", "question_type", "measure")
        ends = ("ci_low", "ci_high", "n")
        return {tuple(row[key] for key in place): Range(*(row[key] for key in ends)) for row in table.to_dicts()}

    def samples(self, task: str) -> pl.DataFrame:
        """Samples of a task without perturbation."""
        return where(self.logs.samples, task=task, condition="clean")

    def headline(self, condition: str = "clean") -> pl.DataFrame:
        """Rows of `scores` that hold each task's headline metric."""
        return _headline_rows(self.tables["scores"], self.logs.headline, condition)

    def too_many(self, shown: Sequence[str]) -> str:
        """A sentence where a picture shows fewer runs than there are."""
        if len(shown) == len(self.runs):
            return ""
        backbones = len({self.logs.runs[run].group for run in self.runs})
        which = "first seed of each backbone, " if len(shown) == backbones else ""
        return f" Drawn: the {which}{len(shown)} {'' if which else 'best '}of {len(self.runs)} runs."

    def is_share(self, task: str) -> bool:
        """Whether a task's scores are shares of right answers; a judge's points and error rates stay in their unit."""
        return task not in self.logs.without_threshold

    @property
    def clusters(self) -> str:
        """`shared` where questions of a task share an image or what `--cluster-key` names, `alone` where none do,
        `unknown` where the logs name neither."""
        own = where(self.logs.samples, run=self.runs[0], condition="clean")
        counted = own.group_by("task").agg(pl.col("cluster").n_unique(), pl.len())
        if (counted["cluster"] < counted["len"]).any():
            return "shared"
        if self.logs.cluster_key is not None:
            return "alone"
        cluster, doc_key = (pl.col(name).cast(pl.String) for name in ("cluster", "doc_key"))
        is_document = (cluster == pl.col("doc_id")) | (cluster == doc_key).fill_null(False)
        return "unknown" if own.select(is_document.all()).item() else "alone"


@dataclass(frozen=True)
class Plan:
    """One chart to render: section, file name, title, a sentence that says what it shows with its n, and its numbers.

    `data` is the name of a table or the picture's own frame; `choice` is where it stands among the section's choices.
    """

    section: str
    name: str
    title: str
    about: str
    chart: Any
    data: str | pl.DataFrame
    choice: tuple[str, ...] = ()


def look_at(
    logs: Logs, tables: Mapping[str, pl.DataFrame], runs: Sequence[str], tasks: Sequence[str], seed: int = 0
) -> View:
    """Choose what is drawn."""
    most = len(RUN_COLORS)
    drawn = _first_seeds(logs, runs)
    if len(drawn) > most:
        drawn = best_runs(tables["scores"], logs.headline, drawn, most)
    in_matrix = list(runs)
    if len(runs) > MOST_IN_MATRIX:
        in_matrix = best_runs(tables["scores"], logs.headline, runs, _COLLAPSED_MATRIX)
    return View(logs, tables, list(runs), list(tasks), drawn, in_matrix, RunColors(drawn), seed)


def _first_seeds(logs: Logs, runs: Sequence[str]) -> list[str]:
    """One run a backbone where some have several seeds: curves of every seed would hide the backbones."""
    first: dict[str, str] = {}
    for run in sorted(runs, key=lambda run: logs.runs[run].seed):
        first.setdefault(logs.runs[run].group, run)
    return [run for run in runs if run in first.values()]


def _headline_rows(scores: pl.DataFrame, headline: Mapping[str, str], condition: str) -> pl.DataFrame:
    own = pl.DataFrame(list(headline.items()), schema={"task": pl.String, "metric": pl.String}, orient="row")
    known = scores.filter(pl.col("value").is_not_nan(), condition=condition)
    return known.join(own, on=["task", "metric"], maintain_order="left")


def best_runs(scores: pl.DataFrame, headline: Mapping[str, str], runs: Sequence[str], count: int) -> list[str]:
    """Return the runs with the best mean rank over the tasks, in their own order; without a score a run comes last."""
    kept = _headline_rows(scores, headline, "clean")
    ranked = kept.with_columns(pl.col("value").rank(descending=True).over("task").alias("rank"))
    mean = dict(ranked.group_by("run").agg(pl.col("rank").mean()).iter_rows())
    best = set(sorted(runs, key=lambda run: mean.get(run, float("inf")))[:count])
    return [run for run in runs if run in best]


def sizes(numbers: Iterable[Any]) -> str:
    """n = 654, or n = 640 to 654; empty where there is no number."""
    known = sorted({int(n) for n in numbers if n is not None})
    if not known:
        return ""
    return f"n\u00a0=\u00a0{known[0]:,}" + (f" to {known[-1]:,}" if len(known) > 1 else "")


def plural(count: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count:,} {noun}{'s' * (count != 1)}"

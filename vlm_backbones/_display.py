"""How a study shows itself: a live table on a terminal, lines elsewhere, and the table of scores at the end."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from vlm_backbones._scheduler import Job, Running

__all__ = ["Progress", "StudyDisplay", "duration", "interval", "read_progress", "scores_table"]

_LINE_SECONDS = 60.0
_LINE_SHARE = 0.1
"""Of the time so far: the wait between two lines of a long study's log."""
_HEADLINES = {
    "vqa_scene": "vqa_accuracy",
    "seismic_description": "fact_score",
    "seismic_coords": "within_100_km",
}


class StudyDisplay:
    """Progress of a study: which stage of how many, its step, its time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._began = self._last_line = time.monotonic()
        self._took: dict[str, list[float]] = {}
        """Seconds of the stages that ended, by their kind: train, eval, ..."""

    def __enter__(self) -> StudyDisplay:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*error)

    def started(self, running: Running) -> None:
        """Tell that a job began."""
        threads = f"{running.threads} thread{'s' * (running.threads > 1)}"
        self._say(f"{running.job.title}: started ({threads}; log: {running.job.log})")

    def ended(self, running: Running, seconds: float) -> None:
        """Tell that a job succeeded."""
        self._took.setdefault(_kind(running.job), []).append(seconds)
        self._say(f"{running.job.title}: finished in {duration(seconds)}")

    def update(self, waiting: Sequence[Job], running: Sequence[Running], finished: Sequence[str]) -> None:
        """Refresh the table; without a terminal print a line a minute, and ever fewer of a study that takes long."""
        now = time.monotonic()
        if self._live is not None:
            self._live.update(_live_view(waiting, running, now - self._began, self._took))
        elif running and now - self._last_line > max(_LINE_SECONDS, _LINE_SHARE * (now - self._began)):
            self._say("; ".join(_line_of(item) for item in running))
            self._last_line = now

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _line_of(item: Running) -> str:
    return ", ".join(part for part in (item.job.title, *_progress(item)) if part)


def _live_view(
    waiting: Sequence[Job], running: Sequence[Running], seconds: float, took: Mapping[str, Sequence[float]]
) -> Group:
    table = Table("stage", "", "step", "time left", "elapsed", box=None, padding=(0, 2, 0, 0))
    for item in running:
        step, left = _progress(item)
        elapsed = duration(time.monotonic() - item.since)
        table.add_row("{} of {}".format(*item.job.place), escape(item.job.name), step, left, elapsed)
    for job in waiting:
        table.add_row("{} of {}".format(*job.place), escape(job.name), "waiting", style="dim")
    jobs = [*(item.job for item in running), *waiting]
    if not jobs:
        return Group(table)
    count, to_go = jobs[0].place[1], _seconds_to_go(waiting, running, took)
    rest = f", at least {duration(to_go)} to go" if to_go else ""
    return Group(f"{count - len(jobs)} of {count} stages done, {duration(seconds)} so far{rest}", table)


def _seconds_to_go(waiting: Sequence[Job], running: Sequence[Running], took: Mapping[str, Sequence[float]]) -> float:
    """Return what is left of the running stages and of the waiting ones of which another of the kind has ended.

    As many run side by side as now. A kind that has not ended once counts nothing, so the study takes longer.
    """
    found = [read_progress(item.job.progress, item.started) for item in running]
    lefts = [progress.seconds_left or 0.0 for progress in found if progress]
    others = [sum(took[_kind(job)]) / len(took[_kind(job)]) for job in waiting if _kind(job) in took]
    return max([*lefts, (sum(lefts) + sum(others)) / max(1, len(running))])


def _kind(job: Job) -> str:
    return job.name.partition(" ")[0]


def _progress(item: Running) -> tuple[str, str]:
    """Return (step, time left) as text from the stage's progress file; empty before it has one."""
    progress = read_progress(item.job.progress, item.started)
    return (progress.step, progress.left) if progress else ("", "")


@dataclass(frozen=True)
class Progress:
    """How far a stage is."""

    phase: str
    """Part of the stage: align, finetune, eval, ..."""
    step: str
    seconds_left: float | None

    @property
    def left(self) -> str:
        """Empty where it is not known."""
        return "" if self.seconds_left is None else f"{duration(self.seconds_left)} left"


def read_progress(path: Path | None, since: float) -> Progress | None:
    """Return what a stage's progress file says; None where there is none that was written since a time.

    Parameters
    ----------
    since
        Seconds since the epoch: what an earlier stage wrote before does not count.
    """
    try:
        if path is None or path.stat().st_mtime < since:
            return None
        row = json.loads(path.read_text(encoding="utf-8"))
        phase, seconds = str(row["stage"]), row.get("seconds_left")
        left = None if seconds is None else float(seconds)
        return Progress(phase, f"{phase} {row['step']}/{row['steps']}", left)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # between two stages the file may be missing or of another shape; the next look finds it


def duration(seconds: float) -> str:
    """Return seconds as M:SS or H:MM:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def scores_table(tables: Path) -> Table:
    """Return the headline scores with their intervals, task by task, beside the blind baseline."""
    with (tables / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if _is_headline(row)]
    blind = {(row["run"], row["task"], row["metric"]): row for row in rows if row["condition"] == "swap"}
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    for name, width in (("score [95 %]", 20), ("with another image", 20), ("n", 6)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    clean = [row for row in rows if row["condition"] == "clean"]
    for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in clean):
        table.add_row(f"[bold]{task}[/bold] [dim]{metric}[/dim]")
        for row in (row for row in clean if (row["task"], row["metric"]) == (task, metric)):
            beside = blind.get((row["run"], task, metric))
            table.add_row(f"  {row['run']}", interval(row), interval(beside) if beside else "", f"{int(row['n']):,}")
    return table


def _is_headline(row: dict[str, str]) -> bool:
    return row["metric"] == _HEADLINES.get(row["task"], row["metric"]) and row["condition"] in {"clean", "swap"}


def interval(row: Mapping[str, Any]) -> str:
    """Return a row of the table `scores` as "value [low, high]"; the value alone where it has no interval."""
    try:
        value, low, high = (float(row[key]) for key in ("value", "ci_low", "ci_high"))
    except (TypeError, ValueError):
        return "-" if row["value"] is None else str(row["value"])
    if math.isnan(value):
        return "not defined"
    if math.isnan(low) or math.isnan(high):
        return f"{value:.3f} (interval not defined)"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"

"""How a study shows itself: a live table on a terminal, lines elsewhere, and the table of scores at the end."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from vlm_backbones._scheduler import Job, Running

__all__ = ["StudyDisplay", "scores_table"]

_LINE_SECONDS = 30.0
_HEADLINES = {
    "vqa_scene": "vqa_accuracy",
    "seismic_description": "fact_score",
    "seismic_coords": "within_100_km",
}


class StudyDisplay:
    """Progress of a study: stage, step, time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._last_line = time.monotonic()
        self._rows: dict[str, tuple[str, str, str]] = {}

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
        self._say(f"started  {running.job.name} ({threads}; log: {running.job.log})")

    def ended(self, running: Running, seconds: float) -> None:
        """Tell that a job succeeded."""
        self._say(f"finished {running.job.name} in {_duration(seconds)}")

    def update(self, waiting: Sequence[Job], running: Sequence[Running], finished: Sequence[str]) -> None:
        """Refresh the table, or every half minute print a line a running stage."""
        if self._live is not None:
            self._live.update(_table(waiting, running))
        elif time.monotonic() - self._last_line > _LINE_SECONDS:
            for item in running:
                step, left = _progress(item)
                self._say("  ".join(part for part in ("running ", item.job.name, step, left) if part))
            self._last_line = time.monotonic()

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _table(waiting: Sequence[Job], running: Sequence[Running]) -> Table:
    table = Table("stage", "step", "time left", "elapsed", box=None, padding=(0, 2))
    for item in running:
        step, left = _progress(item)
        table.add_row(item.job.name, step, left, _duration(time.monotonic() - item.since))
    for job in waiting:
        table.add_row(f"[dim]{job.name}[/dim]", "[dim]waiting[/dim]", "", "")
    return table


def _progress(item: Running) -> tuple[str, str]:
    """Return (step, time left) as text from the stage's progress file; empty before it has one."""
    path = item.job.progress
    try:
        if path is None or path.stat().st_mtime < item.started:
            return "", ""
        row = json.loads(path.read_text(encoding="utf-8"))
        step = f"{row['stage']} {row['step']}/{row['steps']}"
        left = row.get("seconds_left")
        return step, f"{_duration(float(left))} left" if left is not None else ""
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""  # between two stages the file may be missing or of another shape; the next look finds it


def _duration(seconds: float) -> str:
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
            table.add_row(f"  {row['run']}", _interval(row), _interval(beside) if beside else "", f"{int(row['n']):,}")
    return table


def _is_headline(row: dict[str, str]) -> bool:
    return row["metric"] == _HEADLINES.get(row["task"], row["metric"]) and row["condition"] in {"clean", "swap"}


def _interval(row: dict[str, str]) -> str:
    try:
        value, low, high = (float(row[key]) for key in ("value", "ci_low", "ci_high"))
    except ValueError:
        return row["value"]
    if math.isnan(value):
        return "not defined"
    if math.isnan(low) or math.isnan(high):
        return f"{value:.3f} (interval not defined)"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"

"""What differs between the evaluations of runs, as their done.json and samples tell: no property of the models."""

from __future__ import annotations

__all__ = ["checkpoints_of", "judges_of", "several_checkpoints", "unlike_evaluations", "unlike_judges"]

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_backbones.analysis._responses import wrapper_extras
from vlm_backbones.hashes import read_sealed_json


def unlike_evaluations(folders: Mapping[str, Path]) -> list[str]:
    """Say of runs, by name -> folder, which tasks other files, other numbers of documents or other versions asked."""
    found = {
        (run, done.parent.name): read_sealed_json(done) or {}
        for run, folder in folders.items()
        for done in sorted(folder.glob("logs/*/done.json"))
    }
    versions = _runs_by({f"{run}, {condition}": content.get("version") for (run, condition), content in found.items()})
    said = []
    if len(versions) > 1:
        shown = "; ".join(f"version {version}: {' and '.join(runs)}" for version, runs in versions.items())
        said.append(f"the runs were evaluated by different versions of the evaluation ({shown}): evaluate them again.")
    tasks = dict.fromkeys((condition, task) for (_, condition), content in found.items() for task in _tasks(content))
    for condition, task in tasks:
        rows = {
            run: _tasks(content)[task]
            for (run, other), content in found.items()
            if other == condition and task in _tasks(content)
        }
        said += _of_task(task, condition, rows)
    return list(dict.fromkeys(said))


def judges_of(records: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return who graded some samples of a task: empty where no judge does, or no sample says which."""
    found = set()
    for record in records:
        ours = record.get("backbones")
        judged = ours.get("judged") if isinstance(ours, Mapping) else None
        if not isinstance(judged, Mapping):  # a task is judged as a whole, or not at all
            break
        if (judge := judged.get("judge")) is not None:
            found.add(str(judge)[:80])
    return found


def checkpoints_of(records: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return which checkpoints answered some samples that follow each other, by the first and the last of them."""
    named = (wrapper_extras(record.get("token_counts")).get("checkpoint") for record in (records[0], records[-1]))
    return {name for name in named if isinstance(name, str)}


def several_checkpoints(found: Iterable[tuple[str, str, set[str]]]) -> list[str]:
    """Name each run whose logs are of more than one model, from (run, "task / condition", checkpoints)."""
    answered: dict[str, dict[str, dict[str, None]]] = {}
    for run, place, checkpoints in found:
        for name in sorted(checkpoints):
            answered.setdefault(run, {}).setdefault(name, {})[place] = None
    return [
        f"{run}: different checkpoints answered "
        + "; ".join(f"{', '.join(places)} ({name[:12]})" for name, places in by.items())
        + ": it is not one model. Evaluate them again, or give each checkpoint's logs a name: --run NAME=PATH."
        for run, by in answered.items()
        if len(by) > 1
    ]


def unlike_judges(judges: Iterable[tuple[str, str, set[str]]]) -> list[str]:
    """Name each task whose runs different judges graded, from (task, run, judges)."""
    found: dict[str, dict[str, str]] = {}
    for task, run, names in judges:
        if names:
            found.setdefault(task, {})[run] = " and ".join(sorted(names))
    notes = []
    for task, runs in found.items():
        if len(by := _runs_by(runs)) > 1:
            shown = "; ".join(f"{', '.join(names)} by {judge}" for judge, names in by.items())
            notes.append(
                f"task {task}: different judges graded the runs, which is no property of the models: {shown}. Grade "
                "them by one."
            )
    return notes


def _of_task(task: str, condition: str, rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if len(files := _runs_by({run: row.get("task") for run, row in rows.items()})) > 1:
        shown = " and ".join(", ".join(runs) for runs in files.values())
        yield f"task {task}: its own files differ between the evaluations of {shown}: evaluate them again."
    if len(counts := _runs_by({run: row.get("n") for run, row in rows.items()})) > 1:
        shown = "; ".join(f"{', '.join(runs)} {count}" for count, runs in counts.items())
        yield (
            f"task {task}, {condition}: the runs answered different numbers of documents ({shown}), as with another "
            "--limit."
        )


def _tasks(content: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    tasks = content.get("tasks")
    return {name: row for name, row in tasks.items() if isinstance(row, dict)} if isinstance(tasks, dict) else {}


def _runs_by(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return value -> runs; runs of which it is not known are left out."""
    found: dict[str, list[str]] = {}
    for run, value in values.items():
        if value is not None:
            found.setdefault(str(value)[:80], []).append(run)
    return found

"""What finished work lists with hashes: an evaluation in RUN/logs/CONDITION/done.json, an analysis in OUT/.seal.json.

No torch; open to all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_backbones._seals import folder_fingerprint, sealed_fingerprint
from vlm_backbones.hashes import changed, listed_files, read_sealed_json

__all__ = [
    "MEDIA",
    "REPORT_SEAL",
    "STATES",
    "damaged_files",
    "files_of",
    "is_of_another_checkpoint",
    "results_of",
    "run_folder",
    "samples_of",
]

STATES, MEDIA = "states", "media"
"""Folders of a run beside its logs."""
_LOGS = "logs"
REPORT_SEAL = ".seal.json"
"""Beside a report: lists what the analysis wrote."""


def run_folder(done: Path) -> Path:
    """Return the run that a done.json belongs to; its rows name files from there."""
    parents = Path(os.path.abspath(done)).parents
    return parents[min(2, len(parents) - 1)]


def samples_of(done: Path, row: object) -> dict[Path, str | None]:
    """Return a task's log of samples with its sha256, None where an earlier version noted none; empty of no log.

    Raises
    ------
    ValueError
        If the row names no file under the condition's folder.
    """
    if not isinstance(row, Mapping) or "samples" not in row:
        return {}
    name, digest = row["samples"], row.get("sha256")
    if not isinstance(name, str):
        raise ValueError(f"its samples are {str(name)[:80]!r}, expected the name of a file")
    (path,) = listed_files(done.parent, {name: "0" * 64 if digest is None else digest})
    return {path: digest}


def files_of(done: Path, row: object, *folders: str) -> dict[Path, str]:
    """Return a task's other files with their sha256, those under some folders of the run alone where any are named.

    Raises
    ------
    ValueError
        If the row names anything but files of the run.
    """
    if not isinstance(row, Mapping):
        return {}
    run = run_folder(done)
    files = listed_files(run, row.get("files", {}))
    return {path: sha for path, sha in files.items() if not folders or path.relative_to(run).parts[0] in folders}


def results_of(done: Path, row: object) -> dict[Path, str]:
    """Return the results files of a task with their sha256: they lie below `done`, wherever that was moved.

    Raises
    ------
    ValueError
        If the row names anything but files of the run.
    """
    run, found = run_folder(done), files_of(done, row, _LOGS)
    return {done.parent.joinpath(*path.relative_to(run).parts[2:]): sha for path, sha in found.items()}


def is_of_another_checkpoint(done: Path, content: Mapping[str, Any]) -> bool:
    """Whether an evaluation in a run's folder answered with another checkpoint than the one that lies there.

    False where that cannot be told: no checkpoint lies there, or it has no seal.

    Raises
    ------
    CheckpointError
        If the seal is damaged.
    """
    folder, answered = run_folder(done) / "checkpoint", content.get("checkpoint")
    own = sealed_fingerprint(folder)
    if own is None or answered == own:
        return False
    return answered != folder_fingerprint(folder)  # with what a user added


def damaged_files(done: Path) -> dict[str, list[Path]]:
    """Return task -> what it lists and is gone or changed; `done` itself under "" where it cannot be read."""
    content = read_sealed_json(done)
    tasks: Any = content.get("tasks") if content is not None else None
    if not isinstance(tasks, dict):
        return {"": [done]}
    try:
        return {name: found for name, row in tasks.items() if (found := _damaged(done, row))}
    except ValueError:
        return {"": [done]}


def _damaged(done: Path, row: object) -> list[Path]:
    samples = samples_of(done, row)
    hashed = {path: digest for path, digest in samples.items() if digest is not None}
    gone = [path for path in samples if path not in hashed and not path.is_file()]
    return [*gone, *changed(hashed | files_of(done, row))]

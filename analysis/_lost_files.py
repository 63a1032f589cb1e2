"""Are the files of an evaluation those that it listed? Tables of others would silently be other tables."""

from __future__ import annotations

__all__ = ["refuse_changed_results", "refuse_lost_files"]

import glob
from collections.abc import Mapping
from pathlib import Path

from vlm_backbones.analysis._folders import files_below
from vlm_backbones.done_files import (
    STATES,
    files_of,
    is_of_another_checkpoint,
    results_of,
    run_folder,
    samples_of,
)
from vlm_backbones.errors import LogError
from vlm_backbones.hashes import changed, read_sealed_json

_AGAIN = "Run the study or the evaluation again, which replaces it"


def refuse_changed_results(root: Path) -> None:
    """Refuse results below a folder that are not those of the evaluation beside them; its logs need not be there.

    Raises
    ------
    LogError
        Naming the file.
    """
    for done in files_below(root, "done.json"):
        tasks = (read_sealed_json(done) or {}).get("tasks")
        for task, row in tasks.items() if isinstance(tasks, dict) else ():
            _refuse_changed(
                done, {path: digest for path, digest in _results(done, task, row).items() if _is_file(path)}
            )


def _results(done: Path, task: str, row: object) -> dict[Path, str]:
    try:
        return results_of(done, row)
    except ValueError as error:
        raise LogError(f"{done}, task {task[:200]!r}: {error}. {_AGAIN}.") from error


def _refuse_changed(done: Path, listed: Mapping[Path, str]) -> None:
    if damaged := changed(listed):
        raise LogError(
            f"{damaged[0]} is not the file that the evaluation wrote (its sha256 is not the one in {done.name}): "
            f"it is damaged or was edited. {_AGAIN}; or delete {done} to read it as it is."
        )


def refuse_lost_files(done: Path) -> None:
    """Refuse a finished condition of ours of which a log, results or hidden states are gone or damaged.

    Its pictures change no table; the next `study run` looks at them.

    Raises
    ------
    LogError
        Naming the file.
    """
    content = read_sealed_json(done)
    tasks = content.get("tasks", {}) if content is not None else None
    if not isinstance(tasks, dict):
        raise LogError(
            f"{done} is no intact JSON object: it is damaged or was edited. {_AGAIN}; or delete it to read the logs "
            "beside it as they are."
        )
    if content is not None and is_of_another_checkpoint(done, content):
        raise LogError(
            f"{done}: another checkpoint answered than the one in {run_folder(done) / 'checkpoint'}: the logs are "
            f"another run's, or of before it was trained again. {_AGAIN}."
        )
    for task, row in tasks.items():
        try:
            samples, states = samples_of(done, row), files_of(done, row, STATES)
        except ValueError as error:
            raise LogError(f"{done}, task {task[:200]!r}: {error}. {_AGAIN}.") from error
        results = _results(done, task, row)
        lost = [path for path in [*samples, *states, *results] if not _is_file(path)]
        if not samples or lost:
            gone = str(lost[0] if lost else "")[:500]
            raise LogError(
                f"{done.parent}: {gone!r} is gone, a file of task {task[:200]!r} that {done.name} lists. {_AGAIN}."
            )
        _refuse_changed(done, {path: digest for path, digest in samples.items() if digest} | states | results)
        _refuse_unlisted(done, task, states)


def _refuse_unlisted(done: Path, task: str, states: Mapping[Path, str]) -> None:
    """Refuse states beside those that the evaluation listed: they would count as its own."""
    for folder in {path.parent for path in states}:
        others = sorted(set(folder.glob(f"{glob.escape(task)}-rank*.safetensors")) - set(states))
        if others:
            raise LogError(
                f"{others[0]} is no file of the evaluation that {done} tells of, and lies among its hidden states. "
                "Move it elsewhere."
            )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no file can have such a name
        return False

"""lmms-eval's index of its own 1,900 task files, kept in the user's cache: reading them takes seconds a start."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlm_backbones.cache import atomic_write_text, cache_dir
from vlm_backbones.errors import DataError
from vlm_backbones.model_wrappers._wrapping import wrap_once

__all__ = ["install"]


def install() -> None:
    """Let `TaskManager._get_task_and_group` remember lmms-eval's own folder; others are read as ever."""
    from lmms_eval.tasks import TaskManager

    wrap_once(TaskManager, "_get_task_and_group", _index)


def _index(original: Callable[[Any, str], Any], manager: Any, task_dir: str) -> Any:
    if Path(task_dir) != own_folder():
        return original(manager, task_dir)
    return remembered(Path(task_dir), lambda: original(manager, task_dir))


def own_folder() -> Path:
    """Return the folder of the tasks that come with lmms-eval."""
    import lmms_eval.tasks

    return Path(lmms_eval.tasks.__file__).parent


def remembered(folder: Path, make: Callable[[], Any]) -> Any:
    """Return the index of a folder: as it was made while every file had the size and the time that it has now."""
    stamp = hashlib.sha256()
    for line in _files(str(folder)):
        stamp.update(line.encode("utf-8", "surrogateescape"))
    path = cache_dir() / f"task-index-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # there is none yet, or it is broken: it is made
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["stamp"] == stamp.hexdigest():
            return held["index"]
    made = make()
    with suppress(OSError, DataError):  # a cache that cannot be written costs seconds, no more
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps({"stamp": stamp.hexdigest(), "index": made}))
    return made


def _files(folder: str) -> Iterator[str]:
    """Yield path, size and time of every file: a YAML may include others whatever their names."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _files(entry.path)
            elif not entry.name.endswith(".pyc"):
                found = entry.stat()
                yield f"{entry.path}\0{found.st_size}\0{found.st_mtime_ns}\n"

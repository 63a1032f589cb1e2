"""lmms-eval's tasks for an evaluation: found and opened, their documents, and what of their files decides them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lmms_eval.tasks import TaskManager, get_task_dict

from vlm_backbones._fingerprints import files_fingerprint, hash_of
from vlm_backbones.errors import ConfigError, DataError, nearest, user_error
from vlm_backbones.hashes import known_sha256

__all__ = ["load_tasks", "of_split", "rows_sha256", "size_of", "split_of", "task_manager"]

_INCLUDE = re.compile(r"^include:\s*(\S+)\s*$", re.MULTILINE)


def task_manager(tasks: Sequence[str]) -> TaskManager:
    """Index our task folders alone where they hold every task asked for: lmms-eval's own 1,900 files take seconds."""
    ours = TaskManager("WARNING", include_defaults=False, model_name="backbone_vlm")
    if set(tasks) <= set(ours.all_tasks):
        return ours
    everything = TaskManager("WARNING", model_name="backbone_vlm")
    for name in tasks:
        if name not in everything.all_tasks:
            raise ConfigError(f"unknown task {name!r}.{nearest(name, everything.all_tasks)}")
    return everything


def load_tasks(names: Sequence[str], manager: TaskManager) -> dict[str, Any]:
    """Return name -> task, groups taken apart, each dataset opened once for all conditions."""
    tasks: dict[str, Any] = {}

    def collect(tree: dict[Any, Any]) -> None:
        for name, task in tree.items():
            if isinstance(task, dict):
                collect(task)
            else:
                task.files_sha256 = _files_sha256(manager, str(name))
                tasks[str(name)] = task

    try:
        collect(get_task_dict(list(names), manager, "simple"))
    except ImportError as error:  # how lmms-eval wraps whatever a YAML's !function raised
        raise user_error(error) or error from None
    if not tasks:
        raise ConfigError("no task is named: --tasks A,B")
    return tasks


def _files_sha256(manager: TaskManager, name: str) -> str:
    """Return a hash of what asks and scores a task: of a user's its YAML, what that includes and the code beside it.

    Of lmms-eval's tasks it is the version, of our own the evaluation's VERSION tells it.
    """
    path = Path(str(manager.task_index.get(name, {}).get("yaml_path", "")))
    for package, told in (("vlm_backbones.tasks", "own"), ("lmms_eval", f"lmms-eval {version('lmms_eval')}")):
        spec = find_spec(package)
        if spec is not None and any(path.is_relative_to(folder) for folder in spec.submodule_search_locations or ()):
            return told
    return files_fingerprint(_sources(path)) if path.is_file() else ""


def _sources(yaml: Path) -> list[Path]:
    """Return a task's YAML, those that it includes, and the Python files beside them."""
    found, waiting = dict[Path, None](), [yaml]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found[path] = None
        included = _INCLUDE.findall(path.read_text(encoding="utf-8", errors="replace"))
        waiting += [(path.parent / name.strip("'\"")).resolve() for name in included]
    code = {file for path in found for file in path.parent.glob("*.py")}
    return sorted({*found, *code})


def rows_sha256(task: Any) -> str:
    """Return a hash of the tables of a task's documents that were saved to a folder.

    Their fingerprint stands in a file beside the table, and stays where the table is written over.
    """
    tables = [Path(file["filename"]) for file in task.dataset[split_of(task)].cache_files]
    saved = known_sha256(path for path in tables if (path.parent / "state.json").is_file())
    return hash_of(sorted(saved.values()))


def of_split(tasks: dict[str, Any], split: str) -> dict[str, Any]:
    """Return the tasks that have a split, asking it in place of their own."""
    for name in [name for name, task in tasks.items() if split not in task.dataset]:
        print(f"task {name!r} has no split {split!r}, skipped.", flush=True)
    having = {name: task for name, task in tasks.items() if split in task.dataset}
    if not having:
        raise DataError(f"none of {', '.join(tasks)} has a split {split!r}: name a task that has, or drop the sweep.")
    for task in having.values():
        task.config.test_split = split
    return having


def split_of(task: Any) -> str:
    """Return the split whose documents a task asks."""
    return str(task.config.test_split or task.config.validation_split)


def size_of(task: Any, limit: int | None) -> int:
    """Return how many documents are asked under a limit, None or none above 0 for all."""
    total = len(task.eval_docs)
    return total if not limit or limit < 0 else min(limit, total)

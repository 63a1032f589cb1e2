"""What a finished stage left: files, and the files that they list, whole or damaged. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlm_backbones._seals import SEAL, changed_files
from vlm_backbones.done_files import REPORT_SEAL, damaged_files, is_of_another_checkpoint
from vlm_backbones.errors import CheckpointError
from vlm_backbones.hashes import changed, listed_files, read_sealed_json
from vlm_backbones.json_text import parse_json

__all__ = ["missing_outputs", "origin_of"]


def missing_outputs(path: Path) -> list[Path]:
    """Return what is gone or damaged: the output itself, and what the JSON files among the outputs list."""
    if not path.exists():
        return [path]
    read = _READERS.get(path.name, _itself if path.suffix == ".json" else _nothing)
    return list(dict.fromkeys(read(path)))


def origin_of(record: Path, *, logs: bool = False) -> object:
    """Return what a run's record states of how it came about: its training, or an evaluation's tasks and documents.

    Parameters
    ----------
    logs
        With the hashes of an evaluation's logs, which a judge's grades change.
    """
    content = read_sealed_json(record) or {}
    tasks = content.get("tasks")
    if not isinstance(tasks, dict):
        return content.get("fingerprint")
    keys = ("data", "n", "task", "rows", *(["sha256"] if logs else []))
    return {name: [row.get(key) for key in keys] for name, row in tasks.items() if isinstance(row, dict)}


def _nothing(path: Path) -> list[Path]:
    return []


def _itself(path: Path) -> list[Path]:
    return [path] if read_sealed_json(path) is None else []


def _of_evaluation(done: Path) -> list[Path]:
    """Return what it lists and is gone or changed; itself where another checkpoint answered than the run's own."""
    try:
        if is_of_another_checkpoint(done, read_sealed_json(done) or {}):
            return [done]
    except CheckpointError:
        pass  # a damaged seal is the training's
    return [path for found in damaged_files(done).values() for path in found]


def _of_checkpoint(config: Path) -> list[Path]:
    """Return the weight files that a checkpoint in transformers' format needs and lacks, and its changed files."""
    folder = config.parent
    index: Any = (read_sealed_json(folder / "model.safetensors.index.json") or {}).get("weight_map")
    shards = {str(name) for name in index.values()} if isinstance(index, Mapping) else set[str]()
    files = [folder / name for name in sorted(shards) or ["model.safetensors"]]
    try:
        sealed = changed_files(folder)
    except CheckpointError:
        sealed = [folder / SEAL]
    return [*(file for file in files if not file.is_file()), *sealed]


def _of_training(record: Path) -> list[Path]:
    """Return the record where it is damaged, the checkpoint's seal where it is another, and the stages' results.

    A stage's folder that is gone as a whole is no damage: the checkpoint holds what it trained.
    """
    content = read_sealed_json(record)
    if content is None:
        return [record]
    seal, stages = content.get("seal"), content.get("stages")
    damaged = changed({record.parent / "checkpoint" / SEAL: seal}) if isinstance(seal, str) else []
    for name in stages if isinstance(stages, dict) and "copied_from" not in content else ():
        damaged += _of_stage(record.parent / name)
    return damaged


def _of_stage(folder: Path) -> list[Path]:
    note, result = folder / "stage.json", folder / "trainable.safetensors"
    if not note.exists() and not result.exists():
        return []
    try:
        digest = parse_json(note.read_bytes())["sha256"]
    except (OSError, ValueError, TypeError):
        return [note]
    except KeyError:  # of an earlier version
        return []
    return changed({result: str(digest)})


def _of_report(seal: Path) -> list[Path]:
    try:
        return changed(listed_files(seal.parent, (read_sealed_json(seal) or {}).get("files")))
    except ValueError:
        return [seal]


_READERS: dict[str, Callable[[Path], list[Path]]] = {
    "done.json": _of_evaluation,
    "config.json": _of_checkpoint,
    "run.json": _of_training,
    REPORT_SEAL: _of_report,
}

"""What a finished stage left: files, and the files that they list, whole or damaged. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlm_backbones._seals import changed_files, is_changed

__all__ = ["missing_outputs", "missing_samples", "missing_weights"]


def missing_outputs(path: Path) -> list[Path]:
    """Return what is gone or damaged: the output itself, samples of a `done.json`, weights beside a `config.json`."""
    if not path.exists():
        return [path]
    if path.name == "done.json":
        return missing_samples(path)
    return missing_weights(path.parent) if path.name == "config.json" else []


def missing_samples(done: Path) -> list[Path]:
    """Return the logs of samples that a condition's `done.json` lists and that are gone, or not what it saw."""
    tasks = _read(done).get("tasks", {})
    logs = [(done.parent / task["samples"], task.get("sha256")) for task in tasks.values() if "samples" in task]
    return [log for log, digest in logs if not log.is_file() or (digest and is_changed(log, digest, done))]


def missing_weights(checkpoint: Path) -> list[Path]:
    """Return the weight files that a checkpoint in transformers' format needs and lacks, and its changed files."""
    shards = set(_read(checkpoint / "model.safetensors.index.json").get("weight_map", {}).values())
    files = [checkpoint / name for name in sorted(shards) or ["model.safetensors"]]
    return list(dict.fromkeys([*(file for file in files if not file.is_file()), *changed_files(checkpoint)]))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

"""Content fingerprints of a study's stages: config, the stage's VERSION, input files. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from vlm_backbones._study_loading import package_folder
from vlm_backbones.errors import ConfigError

__all__ = ["files_fingerprint", "hash_of", "read_record", "stage_version"]

_VERSION = re.compile(r"^(?:DATA_)?VERSION(?:: *\w+)? *= *(\d+)", re.MULTILINE)
_SMALL_BYTES = 64 * 2**20


def hash_of(value: Any) -> str:
    """Return sha256 over a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


@cache
def stage_version(module: str) -> int:
    """Return a stage module's VERSION by reading its source, so that nothing heavy is imported."""
    package, _, name = module.rpartition(".")
    path = package_folder(package) / f"{name}.py"
    found = _VERSION.search(path.read_text(encoding="utf-8"))
    if found is None:
        raise ConfigError(f"{path} declares no VERSION. Reinstall vlm-backbones.")
    return int(found.group(1))


def files_fingerprint(paths: Iterable[Path]) -> str:
    """Return a hash over files and folders: by content where small, by size and time where large."""
    rows = []
    for root in paths:
        files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
        stats = [(path, path.stat()) for path in files if "__pycache__" not in path.parts]
        small = sum(stat.st_size for _, stat in stats) <= _SMALL_BYTES
        for path, stat in stats:
            mark = hashlib.sha256(path.read_bytes()).hexdigest() if small else f"{stat.st_size}-{stat.st_mtime_ns}"
            rows.append([str(path.relative_to(root)), mark])
    return hash_of(rows)


def read_record(path: Path) -> dict[str, Any]:
    """Return what a finished stage recorded; empty where there is none or it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}

"""Content fingerprints of a study's stages: config, the stage's VERSION, input files. No torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from vlm_backbones._study_loading import package_folder
from vlm_backbones.errors import ConfigError
from vlm_backbones.hashes import content_sha256

__all__ = ["files_fingerprint", "hash_of", "read_record", "stage_version"]

_VERSION = re.compile(r"^(?:DATA_)?VERSION(?:: *\w+)? *= *(\d+)", re.MULTILINE)


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
    """Return a hash over files and folders by content, wherever they lie; a large file is read once.

    Raises
    ------
    OSError
        If one cannot be read.
    """
    files = [(root, path) for root in paths for path in _files_of(root)]
    hashes = content_sha256(path for _, path in files)
    return hash_of([[str(path.relative_to(root)), hashes[path]] for root, path in files])


def _files_of(root: Path) -> list[Path]:
    """Return a file itself, or a folder's files, those of folders that it links to as well."""
    if not root.is_dir():
        return [root]
    found, seen = list[Path](), set[str]()
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        found += [Path(folder, name) for name in names]
    return sorted(path for path in found if "__pycache__" not in path.parts and path.is_file())


def read_record(path: Path) -> dict[str, Any]:
    """Return what a finished stage recorded; empty where there is none or it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}

"""The manifest of the shipped pocket parts: what each file is, how it was made, and its checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_backbones.cache import atomic_write_text
from vlm_backbones.errors import CheckpointError

__all__ = ["MAKER_VERSION", "check_manifest", "read_manifest", "write_manifest"]

MAKER_VERSION = 2
_NAME = "manifest.json"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _NAME)


def write_manifest(assets: Path, parts: Mapping[str, Any]) -> None:
    """Write `manifest.json`: the maker's version, each part's plan and outcome, each file's sha256 and bytes."""
    files = {
        path.relative_to(assets).as_posix(): {"sha256": _sha256(path), "bytes": path.stat().st_size}
        for path in _files(assets)
    }
    rows = {"maker_version": MAKER_VERSION, "parts": dict(parts), "files": files}
    atomic_write_text(assets / _NAME, json.dumps(rows, indent=1, sort_keys=True) + "\n")


def read_manifest(assets: Path) -> dict[str, Any]:
    """Return the manifest; `CheckpointError` where there is none."""
    try:
        manifest: dict[str, Any] = json.loads((assets / _NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{assets / _NAME} cannot be read ({error}). Reinstall vlm-backbones.") from error
    return manifest


def check_manifest(assets: Path) -> None:
    """Compare every shipped file with the manifest.

    Raises
    ------
    CheckpointError
        Naming each file that is missing, unknown or different.
    """
    stated = read_manifest(assets)["files"]
    present = {path.relative_to(assets).as_posix(): path for path in _files(assets)}
    wrong = sorted(
        {name for name in stated if name not in present or _sha256(present[name]) != stated[name]["sha256"]}
        | (present.keys() - stated.keys())
    )
    if wrong:
        raise CheckpointError(f"{assets}: these files differ from manifest.json: {wrong}. Reinstall vlm-backbones.")

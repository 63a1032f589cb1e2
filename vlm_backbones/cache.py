"""The user's cache folder and the pointer to the last study. No torch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from vlm_backbones.errors import DataError

__all__ = ["atomic_write_text", "cache_dir", "disk_is_full", "read_last_study", "staged_path", "write_last_study"]


def cache_dir() -> Path:
    """Return the cache folder: `VLM_BACKBONES_CACHE` where set, else the platform's user cache."""
    return Path(os.environ.get("VLM_BACKBONES_CACHE") or platformdirs.user_cache_dir("vlm-backbones"))


@contextmanager
def staged_path(path: Path) -> Iterator[Path]:
    """Yield a sibling path to write; rename it to `path` on success, so nothing is ever half-written.

    Raises
    ------
    DataError
        If the folder cannot be written (full disk, no permission).
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield staged
        os.replace(staged, path)
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}. Free space or choose another folder."
        ) from error
    finally:
        if staged.is_file():
            staged.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text file by atomic rename."""
    with staged_path(path) as staged:
        staged.write_text(text, encoding="utf-8")


def disk_is_full(path: Path) -> bool:
    """Whether less than a mebibyte is free where `path` lies or would lie."""
    folder = next(place for place in (path.absolute(), *path.absolute().parents) if place.is_dir())
    return shutil.disk_usage(folder).free < 2**20


def _pointer() -> Path:
    return cache_dir() / "last_study.json"


def write_last_study(study_dir: Path, backbone: str, checkpoint: Path) -> None:
    """Remember the newest generation's checkpoint of the last study."""
    row = {"study": str(study_dir.resolve()), "backbone": backbone, "checkpoint": str(checkpoint.resolve())}
    atomic_write_text(_pointer(), json.dumps(row, indent=1))


def read_last_study() -> dict[str, str] | None:
    """Return {study, backbone, checkpoint} of the last finished study, or None where there is none."""
    try:
        row = json.loads(_pointer().read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise DataError(f"{_pointer()} is not valid JSON ({error}). Delete it and run a study again.") from error
    if not isinstance(row, dict) or not {"study", "backbone", "checkpoint"} <= set(row):
        raise DataError(f"{_pointer()} names no study, backbone and checkpoint. Delete it and run a study again.")
    return {key: str(value) for key, value in row.items()}

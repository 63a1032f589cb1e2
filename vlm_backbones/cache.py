"""The user's cache folder and the pointer to the last study. No torch."""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import platformdirs

from vlm_backbones.errors import DataError, writing_remedy

__all__ = [
    "atomic_write_text",
    "cache_dir",
    "check_writable",
    "disk_is_full",
    "partial_name",
    "read_last_study",
    "recorded_writes",
    "scratch_dir",
    "staged_path",
    "write_last_study",
]

_PARTIAL = re.compile(r"\..+\.(?:(?P<table>[0-9a-f]{8})-(?P<pid>\d+)|[0-9a-f]+)\.partial")
_ABANDONED_SECONDS = 24 * 3600
_recorders: list[list[Path]] = []


def cache_dir() -> Path:
    """Return the cache folder: `VLM_BACKBONES_CACHE` where set, else the platform's user cache."""
    return Path(os.environ.get("VLM_BACKBONES_CACHE") or platformdirs.user_cache_dir("vlm-backbones"))


def partial_name(path: Path) -> Path:
    """Return the sibling under which this process writes `path` until it is whole.

    What killed processes left in the folder is removed, when this process first writes there.
    """
    _sweep_once(path.parent)
    return path.with_name(f".{path.name}.{_process_table()}-{os.getpid()}.partial")


@cache
def _process_table() -> str:
    """Name this machine, its start and its container: a process id means something only within them."""
    facts = [socket.gethostname()]
    with suppress(OSError):  # Linux alone has these
        facts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


@cache
def _sweep_once(folder: Path) -> None:
    for path in folder.glob(".*.partial"):
        with suppress(OSError):  # another process sweeps as well; what cannot be removed does no harm
            if _is_abandoned(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_abandoned(path: Path) -> bool:
    """Whether the process that wrote a partial file or folder is dead or, where that is unknown, idle for a day."""
    found = _PARTIAL.fullmatch(path.name)
    if found is None:  # not one of ours
        return False
    if found["table"] == _process_table():
        return not _is_alive(int(found["pid"]))
    inside = path.rglob("*") if path.is_dir() else ()
    touched: float = max(part.lstat().st_mtime for part in (path, *inside))
    return time.time() - touched > _ABANDONED_SECONDS


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


@contextmanager
def staged_path(path: Path) -> Iterator[Path]:
    """Yield a sibling path to write; rename it to `path` on success, so nothing is ever half-written.

    Raises
    ------
    DataError
        If the folder cannot be written (full disk, no permission).
    """
    staged = partial_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield staged
        os.replace(staged, path)
        for written in _recorders:
            written.append(path.absolute())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}. {writing_remedy(error)}") from error
    finally:
        if staged.is_file():
            staged.unlink(missing_ok=True)


@contextmanager
def recorded_writes() -> Iterator[list[Path]]:
    """Yield a list that gets the absolute path of each file that `staged_path` writes while the block runs."""
    written: list[Path] = []
    _recorders.append(written)
    try:
        yield written
    finally:
        _recorders[:] = [other for other in _recorders if other is not written]


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text file by atomic rename."""
    with staged_path(path) as staged:
        staged.write_text(text, encoding="utf-8")


@cache
def scratch_dir() -> Path:
    """Return a folder for what the caches would keep and cannot, removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="vlm-backbones-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def check_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be written, before the work; nothing is left behind where it can.

    Raises
    ------
    DataError
        Naming the folder and the remedy: other permissions, another file system, space, or another folder.
    """
    try:
        place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{place} is a file")
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(bytes(4096))
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}. {writing_remedy(error)}") from error


def disk_is_full(path: Path) -> bool:
    """Whether less than a mebibyte is free where `path` lies or would lie."""
    folder = next(place for place in (path.absolute(), *path.absolute().parents) if place.is_dir())
    return shutil.disk_usage(folder).free < 2**20


def _pointer() -> Path:
    return cache_dir() / "last_study.json"


def write_last_study(study_dir: Path, backbone: str, checkpoint: Path, note: str = "") -> None:
    """Remember the newest generation's checkpoint of the last study; `note` is what its user should know of it."""
    row = {"study": str(study_dir.resolve()), "backbone": backbone, "checkpoint": str(checkpoint.resolve())}
    row |= {"note": note} if note else {}
    atomic_write_text(_pointer(), json.dumps(row, indent=1))


def read_last_study() -> dict[str, str] | None:
    """Return {study, backbone, checkpoint} of the last finished study, with a note where one was left; None of none."""
    try:
        row = json.loads(_pointer().read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise DataError(f"{_pointer()} is not valid JSON ({error}). Delete it and run a study again.") from error
    if not isinstance(row, dict) or not {"study", "backbone", "checkpoint"} <= set(row):
        raise DataError(f"{_pointer()} names no study, backbone and checkpoint. Delete it and run a study again.")
    return {key: str(value) for key, value in row.items()}

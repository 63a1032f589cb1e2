"""One process at a time in a folder. The system gives a lock back when its process ends, however that is."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vlm_backbones.errors import ConfigError, DataError, writing_remedy

__all__ = ["DYING_SECONDS", "LOCK", "hold", "is_held"]

LOCK = ".lock"
DYING_SECONDS = 10.0
"""What a process that was killed may take to give its memory and its lock back."""


class _Lock(FileLock):
    """No FileLock itself, of which lmms-eval makes one object a path: two holders in a process would be one."""


@contextmanager
def hold(folder: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Keep other processes out of a folder, which is made where there is none.

    Raises
    ------
    ConfigError
        If another process works in it, and still does after `wait_seconds`.
    DataError
        If it cannot be written.
    """
    lock = _Lock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=wait_seconds)
    except Timeout as error:
        raise ConfigError(f"another process is working in {folder}. Wait for it, or choose another --out.") from error
    except NotImplementedError:
        print(f"note: {folder} lies on a file system without locks: see that nobody else works there", file=sys.stderr)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}. {writing_remedy(error)}") from error
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Return whether a process works in a folder."""
    try:
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock, or no locks there
        return False
    return False

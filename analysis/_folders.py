"""What lies under a folder that a user names."""

from __future__ import annotations

__all__ = ["files_below"]

import os
from fnmatch import fnmatch
from pathlib import Path


def files_below(root: Path, pattern: str) -> list[Path]:
    """Return the files whose names match, sorted; through linked folders too, and each folder once."""
    seen, found = set[str](), list[Path]()
    for folder, inner, names in os.walk(root, followlinks=True):
        inner.sort()
        real = os.path.realpath(folder)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        found += [Path(folder) / name for name in names if fnmatch(name, pattern)]
    return sorted(path for path in found if path.is_file())

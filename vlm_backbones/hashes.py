"""Hashes of files, by which damage and later changes are seen: remembered, listed, or of a JSON file within itself.

No torch; open to all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from vlm_backbones.cache import atomic_write_text, cache_dir
from vlm_backbones.errors import DataError
from vlm_backbones.json_text import parse_json

__all__ = [
    "changed",
    "content_sha256",
    "file_sha256",
    "known_sha256",
    "listed_files",
    "read_sealed_json",
    "relative_sha256",
    "remembered",
    "sealed_json",
]

_AT_REST_NS = 2 * 10**9
"""Two writes within a clock's tick leave the same times: what was written just now is hashed again the next time."""
_OWN = "own_sha256"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME, _LONGEST_PART = 1024, 255
"""In bytes, as file systems have it: of a name from its folder, and of a part between slashes."""


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def known_sha256(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the sha256 of each path that is a readable regular file, without reading again what is known."""
    return remembered("hashes", paths, file_sha256)


def content_sha256(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the sha256 of every path, in order, as `known_sha256` does; OSError where one cannot be read."""
    files = list(paths)
    known = known_sha256(files)
    return {path: known.get(path) or file_sha256(path) for path in files}


def remembered(kind: str, paths: Iterable[Path], find: Callable[[Path], str]) -> dict[Path, str]:
    """Return what `find` says of each path that is a readable regular file, without reading again what is known.

    A file is known where its inode, size and both its times are those of when it was read: what `mv`, `cp -p`, `tar`
    or `rsync` put in its place with older times has another inode or time of change. The user cache remembers it.

    Parameters
    ----------
    kind
        What is found, and the name of its folder in the cache.
    """
    folders: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(paths):
        folders.setdefault(path.parent, []).append(path)
    found: dict[Path, str] = {}
    for folder, files in folders.items():
        with suppress(OSError, ValueError):  # no folder can have such a name
            found |= _of_folder(kind, folder.resolve(), files, find)
    return found


def _of_folder(kind: str, folder: Path, files: Iterable[Path], find: Callable[[Path], str]) -> dict[Path, str]:
    note = cache_dir() / kind / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()}.json"
    known, found, is_new = _read_note(note), dict[Path, str](), False
    for path in files:
        with suppress(OSError, ValueError):  # gone, unreadable, or no file can have such a name
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                continue
            mark = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
            kept = known.get(path.name)
            if isinstance(kept, list) and kept[:-1] == mark:
                found[path] = str(kept[-1])
                continue
            found[path] = find(path)
            if time.time_ns() - status.st_ctime_ns > _AT_REST_NS:
                known[path.name], is_new = [*mark, found[path]], True
    if is_new:
        with suppress(DataError):  # a read-only cache only costs time
            atomic_write_text(note, json.dumps(known))
    return found


def _read_note(note: Path) -> dict[str, Any]:
    try:
        known = parse_json(note.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def changed(hashes: Mapping[Path, str]) -> list[Path]:
    """Return the files that are gone, or have another sha256 than is given for them."""
    found = known_sha256(hashes)
    return [path for path, digest in hashes.items() if found.get(path) != digest]


def relative_sha256(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the sha256 of some files in a folder by their names from there, as `listed_files` reads them."""
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in sorted(files)}


def listed_files(folder: Path, listed: object) -> dict[Path, str]:
    """Return file -> sha256 of what a list that anybody wrote names within a folder.

    Raises
    ------
    ValueError
        If it is no such list, or a name could lead out of the folder.
    """
    if not isinstance(listed, dict):
        raise ValueError(f"expected names of files with their sha256, found {type(listed).__name__}")
    for name, digest in listed.items():
        if not isinstance(name, str) or not _stays_inside(name):
            raise ValueError(f"{str(name)[:80]!r} is no name of a file in this folder")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise ValueError(f"{str(digest)[:80]!r} is no sha256")
    return {folder / name: digest for name, digest in listed.items()}


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    plain = "\0" not in name and len(name.encode(errors="replace")) <= _LONGEST_NAME and str(path) == name
    plain = plain and all(len(part.encode(errors="replace")) <= _LONGEST_PART for part in path.parts)
    return plain and not path.is_absolute() and bool(path.parts) and ".." not in path.parts


def sealed_json(content: Mapping[str, Any]) -> str:
    """Return a JSON object that tells its own damage: with the hash of everything else in it as `own_sha256`."""
    plain = json.loads(json.dumps({name: value for name, value in content.items() if name != _OWN}, default=str))
    return json.dumps(plain | {_OWN: _value_sha256(plain)}, indent=1)


def read_sealed_json(path: Path) -> dict[str, Any] | None:
    """Return a file's JSON object; None where it is gone, is none, or differs from its own hash, if it has one."""
    try:
        content = parse_json(path.read_bytes())
        if not isinstance(content, dict):
            return None
        digest = content.pop(_OWN, None)
        return content if digest is None or digest == _value_sha256(content) else None
    except (OSError, ValueError, RecursionError):
        return None


def _value_sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

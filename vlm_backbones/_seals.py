"""The seal of a finished folder: the hashes of its files, so that damage and later changes are seen. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_backbones.errors import CheckpointError
from vlm_backbones.hashes import changed, content_sha256, listed_files, relative_sha256
from vlm_backbones.json_text import parse_json

__all__ = [
    "SEAL",
    "changed_files",
    "check_seal",
    "folder_fingerprint",
    "is_remark",
    "read_seal",
    "sealed_fingerprint",
    "write_seal",
]

SEAL = "seal.json"

_MOST_BYTES = 16 * 2**20
_MEANING = {
    "chat_template.jinja": "the questions would be put in another chat format than the model was trained with",
    "processor_config.json": "pictures would be prepared in another way than in training",
    "preprocessor_config.json": "pictures would be prepared in another way than in training",
    "generation_config.json": "answers would stop elsewhere than at the end of turn that the model was trained with",
    "tokenizer.json": "text would become other tokens than in training",
    "tokenizer_config.json": "text would become other tokens than in training",
}


def write_seal(folder: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write the hashes of a folder's files, last of all; model cards and hidden files are not sealed."""
    files = [path for path in folder.iterdir() if path.is_file() and not is_remark(path)]
    content = {"files": relative_sha256(folder, files), **(facts or {})}
    (folder / SEAL).write_text(json.dumps(content, indent=1), encoding="utf-8")


def is_remark(path: Path) -> bool:
    """Whether a file says nothing about what a checkpoint answers: its card, its seal, hidden files."""
    return path.name.startswith(".") or path.suffix == ".md" or path.name == SEAL


def read_seal(folder: Path) -> dict[str, Any]:
    """Return a folder's seal; empty where it has none, as checkpoints of other makers.

    Raises
    ------
    CheckpointError
        If it is damaged, or names anything but files of this folder.
    """
    path = folder / SEAL
    if not path.exists() and not path.is_symlink():
        return {}
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"no regular file of at most {_MOST_BYTES // 2**20} MB")
        seal = parse_json(path.read_bytes())
        if not isinstance(seal, dict):
            raise ValueError(f"expected an object, found {type(seal).__name__}")
        files = listed_files(folder, seal.get("files"))
        if inner := next((file for file in files if file.parent != folder), None):
            raise ValueError(f"{str(inner)[:200]!r} does not lie in the folder itself")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no seal ({error}): it is damaged, or somebody else wrote it. Run the study again, which writes "
            "the checkpoint anew from its finished stages; or copy the whole folder again from where it is intact."
        ) from error
    return seal


def folder_fingerprint(folder: Path) -> str:
    """Return the sha256 of a checkpoint as it lies in its folder: of its files' names and contents; remarks do not
    count."""
    files = [path for path in folder.iterdir() if path.is_file() and not is_remark(path)]
    return _fingerprint_of({path.name: digest for path, digest in content_sha256(files).items()})


def sealed_fingerprint(folder: Path) -> str | None:
    """Return the fingerprint that a checkpoint was sealed with, None of no seal; CheckpointError as of `read_seal`."""
    files = read_seal(folder).get("files")
    return None if files is None else _fingerprint_of(files)


def _fingerprint_of(files: Mapping[str, str]) -> str:
    total = hashlib.sha256()
    for name, digest in sorted(files.items()):
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()


def changed_files(folder: Path) -> list[Path]:
    """Return the sealed files that are gone or are not what they were; CheckpointError as of `read_seal`."""
    return changed(listed_files(folder, read_seal(folder).get("files", {})))


def check_seal(checkpoint: Path) -> None:
    """Refuse a checkpoint that is not the one that was trained.

    Raises
    ------
    CheckpointError
        Naming the file and what it would change.
    """
    for path in changed_files(checkpoint):
        meaning = _MEANING.get(path.name, "it is damaged, or was changed")
        raise CheckpointError(
            f"{path} is not the file that was written after training (its sha256 is not the one in {SEAL}): {meaning}. "
            f"Run the study again, which writes the checkpoint anew from its finished stages; or, where the change is "
            f"meant, copy the folder and delete the copy's {SEAL}: it then counts as another model."
        )

"""The seal of a finished folder: the hashes of its files, so that damage and later changes are seen. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_backbones.errors import CheckpointError

__all__ = ["SEAL", "changed_files", "check_seal", "file_sha256", "is_changed", "is_remark", "read_seal", "write_seal"]

SEAL = "seal.json"

_MEANING = {
    "chat_template.jinja": "the questions would be put in another chat format than the model was trained with",
    "processor_config.json": "pictures would be prepared in another way than in training",
    "preprocessor_config.json": "pictures would be prepared in another way than in training",
    "generation_config.json": "answers would stop elsewhere than at the end of turn that the model was trained with",
    "tokenizer.json": "text would become other tokens than in training",
    "tokenizer_config.json": "text would become other tokens than in training",
}


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_seal(folder: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write the hashes of a folder's files, last of all; model cards and hidden files are not sealed."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not is_remark(path)]
    hashes = {path.name: file_sha256(path) for path in files}
    (folder / SEAL).write_text(json.dumps({"files": hashes, **(facts or {})}, indent=1), encoding="utf-8")


def is_remark(path: Path) -> bool:
    """Whether a file says nothing about what a checkpoint answers: its card, its seal, hidden files."""
    return path.name.startswith(".") or path.suffix == ".md" or path.name == SEAL


def read_seal(folder: Path) -> dict[str, Any]:
    """Return a folder's seal; empty where it has none, as checkpoints of other makers."""
    try:
        seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return seal if isinstance(seal, dict) else {}


def changed_files(folder: Path) -> list[Path]:
    """Return the sealed files that are gone or are not what they were."""
    hashes = read_seal(folder).get("files", {})
    return [folder / name for name, digest in hashes.items() if is_changed(folder / name, digest, folder / SEAL)]


def is_changed(path: Path, digest: str, seal: Path) -> bool:
    """Whether a file is gone or differs from its hash; one that is no younger than its seal is not read again."""
    try:
        if path.stat().st_mtime_ns <= seal.stat().st_mtime_ns:
            return False
        return file_sha256(path) != digest
    except OSError:
        return True


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
            f"meant, delete {checkpoint / SEAL}: the folder then counts as another model."
        )

"""Trainer checkpoints: the trained part of a stage under way, whole or shared, and sealed when it is complete."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

__all__ = ["is_sealed", "last_sealed", "load_shards", "save_shards", "seal"]

_SEAL = "seal.json"
_TRAINED_ONLY = StateDictOptions(ignore_frozen_params=True)


def save_shards(model: Any, optimizer: Any, folder: Path) -> None:
    """Write the trained weights and their moments, each process its own share; all processes call it."""
    weights, moments = get_state_dict(model, optimizer, options=_TRAINED_ONLY)
    save({"model": weights, "optimizer": moments}, checkpoint_id=folder)


def load_shards(model: Any, optimizer: Any, folder: Path) -> None:
    """Read what `save_shards` wrote, also with another number of processes."""
    weights, moments = get_state_dict(model, optimizer, options=_TRAINED_ONLY)
    load({"model": weights, "optimizer": moments}, checkpoint_id=folder)
    # a frozen weight is in no file, so not every name can be asked for
    options = StateDictOptions(ignore_frozen_params=True, strict=False)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=options)


def seal(folder: Path) -> None:
    """Write the hashes of a Trainer checkpoint's files last, so that a half-written one is never resumed."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    hashes = {file.relative_to(folder).as_posix(): _sha256(file) for file in files}
    (folder / _SEAL).write_text(json.dumps(hashes), encoding="utf-8")


def last_sealed(folder: Path, *, before: int | None = None) -> Path | None:
    """Return the newest Trainer checkpoint of a stage, of a step `before` that one, whose files match its seal."""
    steps = {int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoint-*")}
    newest = sorted((step for step in steps if before is None or step < before), reverse=True)
    return next((steps[step] for step in newest if is_sealed(steps[step])), None)


def is_sealed(folder: Path) -> bool:
    """Whether a Trainer checkpoint's files match its seal."""
    try:
        hashes = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
        return bool(hashes) and all(_sha256(folder / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

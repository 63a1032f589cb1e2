"""Hidden states of answered documents, pooled by kind of token, in a sidecar beside the logs.

A shard is `FOLDER/TASK-rankR-NNNNN.safetensors` with, for each of n documents:

- `states`: (n, layers, token_types, hidden), float16, each vector divided by its scale,
- `scales`: (n, layers, token_types), float32; 0 where a document has no such token,
- `doc_id`: (n,), int64, and `doc_key`: (n, 32), uint8, the key's bytes,

and in its header, as JSON text: task, condition, checkpoint, layers (0 is the embeddings) and token_types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from vlm_backbones.cache import staged_path
from vlm_backbones.errors import ConfigError, DataError, nearest

__all__ = [
    "RANDOM_WEIGHTS",
    "TOKEN_TYPES",
    "DocumentStates",
    "StateFolder",
    "StatePlan",
    "choose_documents",
    "count_documents",
    "pool",
    "spread",
]

TOKEN_TYPES = ("last_prompt", "image_mean", "question_mean", "answer_mean")
RANDOM_WEIGHTS = "random_weights"
"""Takes a condition's place in the folder's name: the clean documents through a backbone of random weights."""
SHARD_BYTES = 64 * 2**20


def spread(total: int, count: int | None) -> list[int]:
    """Return `count` places spread evenly over 0..total-1, or all of them."""
    if count is None or count >= total:
        return list(range(total))
    return [index * total // count for index in range(count)]


@dataclass(frozen=True)
class StatePlan:
    """Which states are kept, and where: `--model_args states=last_prompt+image_mean,layers=every4`.

    Attributes
    ----------
    token_types
        Kinds of token, of `TOKEN_TYPES`.
    layers
        "all", "everyN" (the last one always belongs to it) or numbers as "0+8+16"; 0 is the embeddings.
    folder
        Where the shards of this condition go.
    subset
        Documents a task, spread evenly; all where None.
    control
        Folder for the states of the same documents under random weights; None for none.
    """

    token_types: tuple[str, ...]
    layers: str
    folder: Path
    subset: int | None = None
    control: Path | None = None

    @classmethod
    def parse(cls, states: str, layers: str, folder: Path, subset: int | None, control: Path | None) -> StatePlan:
        """Read the model arguments; raise ConfigError for an unknown kind of token or an odd list of layers."""
        names = tuple(dict.fromkeys(name for name in states.split("+") if name))
        for name in names:
            if name not in TOKEN_TYPES:
                raise ConfigError(f"unknown kind of token {name!r} in states={states}.{nearest(name, TOKEN_TYPES)}")
        if not names or not re.fullmatch(r"all|every[1-9]\d*|\d+(\+\d+)*", layers):
            raise ConfigError(
                f"states={states},layers={layers}: expected states=last_prompt+image_mean+question_mean+answer_mean "
                "and layers=all, everyN or numbers as 0+8+16."
            )
        return cls(names, layers, folder, subset, control)

    def layer_numbers(self, last: int) -> list[int]:
        """Return the hidden states to keep of a backbone with `last` layers.

        Raises
        ------
        ConfigError
            If a number is beyond the last layer.
        """
        if self.layers == "all" or self.layers.startswith("every"):
            step = 1 if self.layers == "all" else int(self.layers.removeprefix("every"))
            return sorted({*range(0, last + 1, step), last})
        numbers = sorted({int(number) for number in self.layers.split("+")})
        if numbers[-1] > last:
            raise ConfigError(f"layers={self.layers}: the backbone has layers 0 to {last}.")
        return numbers


@dataclass(frozen=True)
class DocumentStates:
    """One document's pooled states, (layers, token_types, hidden) as float16, and their scales."""

    task: str
    doc_id: int
    doc_key: str
    states: torch.Tensor
    scales: torch.Tensor


def pool(hidden: torch.Tensor, members: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean states of some tokens, scaled for float16.

    Parameters
    ----------
    hidden
        (layers, rows, length, hidden): states of every token.
    members
        (rows, token_types, length), bool: which tokens belong to each kind.

    Returns
    -------
    states : (rows, layers, token_types, hidden), float16, at most 1 in size; zero where a row has no such token
    scales : (rows, layers, token_types), float32: what to multiply each vector by
    """
    weights = members.float()
    weights = weights / weights.sum(-1, keepdim=True).clamp_(min=1)
    means = torch.einsum("lrth,rkt->rlkh", hidden.float(), weights)
    scales = means.abs().amax(-1)
    return (means / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]).half().cpu(), scales.cpu()


@dataclass
class StateFolder:
    """Writes the shards of one folder, a task after the other; each shard by atomic rename."""

    folder: Path
    rank: int
    header: dict[str, Any]
    _waiting: dict[str, list[DocumentStates]] = field(default_factory=dict)
    _written: dict[str, int] = field(default_factory=dict)
    _seen: set[tuple[str, int]] = field(default_factory=set)

    def add(self, document: DocumentStates) -> None:
        """Keep a document's states, once; a full shard is written at once.

        Raises
        ------
        DataError
            If a state is not finite, or the shard cannot be written.
        """
        if not bool(document.scales.isfinite().all()):
            raise DataError(
                f"task {document.task!r}, row {document.doc_id}: a hidden state is not finite. Evaluate in bfloat16 "
                "or float32 (--model_args dtype=bfloat16)."
            )
        if (document.task, document.doc_id) in self._seen:
            return  # several processes share the documents evenly, so one may be asked twice
        self._seen.add((document.task, document.doc_id))
        rows = self._waiting.setdefault(document.task, [])
        rows.append(document)
        if sum(row.states.nbytes for row in rows) >= SHARD_BYTES:
            self._write(document.task)

    def close(self) -> None:
        """Write what is left, and remove the shards that an earlier, longer evaluation left behind."""
        for task in list(self._waiting):
            self._write(task)
        for task, count in self._written.items():
            number = count
            while (path := self._path(task, number)).is_file():
                path.unlink()
                number += 1

    def _path(self, task: str, number: int) -> Path:
        return self.folder / f"{task}-rank{self.rank}-{number:05d}.safetensors"

    def _write(self, task: str) -> None:
        rows = sorted(self._waiting.pop(task), key=lambda row: row.doc_id)  # answers end in any order
        number = self._written.get(task, 0)
        path = self._path(task, number)
        self._refuse_other_checkpoint(path)
        keys = b"".join(bytes.fromhex(row.doc_key) for row in rows)
        tensors = {
            "states": torch.stack([row.states for row in rows]),
            "scales": torch.stack([row.scales for row in rows]),
            "doc_id": torch.tensor([row.doc_id for row in rows]),
            "doc_key": torch.frombuffer(bytearray(keys), dtype=torch.uint8).view(len(rows), -1),
        }
        header = {"task": task, **self.header}
        with staged_path(path) as staged:
            staged.write_bytes(save(tensors, metadata={name: json.dumps(value) for name, value in header.items()}))
        self._written[task] = number + 1

    def _refuse_other_checkpoint(self, path: Path) -> None:
        if not path.is_file():
            return
        try:
            with safe_open(path, framework="pt") as shard:
                found = json.loads((shard.metadata() or {}).get("checkpoint", "null"))
        except (SafetensorError, ValueError, RecursionError):
            return  # a broken shard is replaced
        if found != self.header["checkpoint"]:
            raise ConfigError(f"{path} holds states of another checkpoint. Name another folder by states_dir=DIR.")


def count_documents(folder: Path, task: str) -> int:
    """Return how many documents of a task have states in a folder; raise DataError for a broken shard."""
    total = 0
    for path in sorted(folder.glob(f"{task}-rank*.safetensors")):
        try:
            with safe_open(path, framework="pt") as shard:
                total += int(shard.get_slice("doc_id").get_shape()[0])
        except SafetensorError as error:
            raise DataError(f"{path} is broken ({error}). Delete it and run again.") from error
    return total


def choose_documents(jobs: Sequence[Any], subset: int | None) -> dict[str, set[int]]:
    """Return task -> the document ids whose states are kept: `subset` of those asked for, spread evenly."""
    asked: dict[str, set[int]] = {}
    for job in jobs:
        asked.setdefault(job.task, set()).add(job.doc_id)
    ordered = {task: sorted(ids) for task, ids in asked.items()}
    return {task: {ids[place] for place in spread(len(ids), subset)} for task, ids in ordered.items()}

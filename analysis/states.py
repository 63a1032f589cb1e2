"""Read the hidden states that runs left beside their logs: RUN/states/CONDITION/TASK-rankR-NNNNN.safetensors."""

from __future__ import annotations

__all__ = ["RANDOM_WEIGHTS", "TaskStates", "find_states"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from vlm_backbones.analysis.log_files import RunInfo
from vlm_backbones.errors import LogError
from vlm_backbones.json_text import parse_json

RANDOM_WEIGHTS = "random_weights"
"""In a condition's place: the clean documents through a backbone of random weights."""
Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class TaskStates:
    """The states of one run on one task under one condition; vectors are read when they are asked for."""

    run: str
    task: str
    condition: str
    shards: tuple[Path, ...]

    @cached_property
    def header(self) -> dict[str, object]:
        """What the shards say about themselves; LogError where they are broken or disagree."""
        found = [_header(path) for path in self.shards]
        for path, header in zip(self.shards, found, strict=True):
            if header != found[0]:
                raise LogError(
                    f"{path} has other layers, kinds of token or weights than {self.shards[0].name}. Keep the shards "
                    "of one evaluation in a folder."
                )
        return found[0]

    @property
    def layers(self) -> list[int]:
        """Layers that were kept; 0 is the embeddings."""
        return [int(layer) for layer in _listed(self.header["layers"])]

    @property
    def token_types(self) -> list[str]:
        """Kinds of token that were kept."""
        return [str(name) for name in _listed(self.header["token_types"])]

    @cached_property
    def doc_keys(self) -> list[str]:
        """The documents' keys, in the order of the vectors."""
        keys: list[str] = []
        for path in self.shards:
            with safe_open(path, framework="numpy") as shard:
                keys += [row.tobytes().hex() for row in shard.get_tensor("doc_key")]
        return keys

    def vectors(self, layer: int, token_type: str) -> Floats32:
        """Return (documents, hidden); a document without such tokens has NaN."""
        i, k = self.layers.index(layer), self.token_types.index(token_type)
        parts = []
        for path in self.shards:
            with safe_open(path, framework="numpy") as shard:
                scales = shard.get_tensor("scales")[:, i, k, None]
                states = shard.get_slice("states")[:, i, k].astype(np.float32)
            if not (np.isfinite(scales).all() and np.isfinite(states).all()):
                raise LogError(f"{path} holds states that are not finite: it is damaged. Delete it and evaluate again.")
            parts.append(np.where(scales > 0, states * scales, np.float32(np.nan)))
        return np.concatenate(parts)


def find_states(runs: Mapping[str, RunInfo], tasks: Sequence[str]) -> dict[tuple[str, str, str], TaskStates]:
    """Return (run, task, condition) -> states, for every run that left some.

    Raises
    ------
    LogError
        If a shard is broken.
    """
    found: dict[tuple[str, str, str], TaskStates] = {}
    for run, info in runs.items():
        root = None if info.run_dir is None else info.run_dir / "states"
        for folder in sorted(root.iterdir()) if root is not None and root.is_dir() else ():
            for task in tasks:
                shards = tuple(sorted(folder.glob(f"{task}-rank*.safetensors")))
                if shards:
                    found[run, task, folder.name] = TaskStates(run, task, folder.name, shards)
    return found


def _header(path: Path) -> dict[str, object]:
    try:
        with safe_open(path, framework="numpy") as shard:
            header = {name: parse_json(value) for name, value in (shard.metadata() or {}).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise LogError(f"{path} cannot be read ({error}). Delete it and evaluate again.") from error
    if not {"layers", "token_types"} <= set(header):
        raise LogError(f"{path} is no file of hidden states: layers and token_types are missing in its header.")
    return header


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list) else []

"""Read the hidden states that runs left beside their logs: RUN/states/CONDITION/TASK-rankR-NNNNN.safetensors."""

from __future__ import annotations

__all__ = ["RANDOM_WEIGHTS", "TaskStates", "find_states"]

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis._state_shards import AGAIN, ShardHeader, opened, read_header
from vlm_backbones.analysis.run_info import RunInfo
from vlm_backbones.errors import LogError

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
    def header(self) -> ShardHeader:
        """What the shards say about themselves; LogError where they are broken or disagree."""
        found = [read_header(path) for path in self.shards]
        for path, header in zip(self.shards, found, strict=True):
            if header != found[0]:
                raise LogError(
                    f"{path} has other layers, kinds of token or weights than {self.shards[0].name}. Keep the shards "
                    "of one evaluation in a folder."
                )
            if (header.task or self.task, header.condition or self.condition) != (self.task, self.condition):
                raise LogError(
                    f"{path} holds states of task {header.task!r}, condition {header.condition!r}, and lies where "
                    f"those of {self.task!r}, {self.condition!r} belong. {AGAIN}"
                )
        return found[0]

    @property
    def layers(self) -> list[int]:
        """Layers that were kept; 0 is the embeddings."""
        return list(self.header.layers)

    @property
    def token_types(self) -> list[str]:
        """Kinds of token that were kept."""
        return list(self.header.token_types)

    @property
    def kept(self) -> tuple[object, ...]:
        """What another condition of the run must have kept too."""
        return self.header.layers, self.header.token_types, self.header.hidden

    @cached_property
    def doc_keys(self) -> list[str]:
        """The documents' keys, in the order of the vectors."""
        places: dict[str, Path] = {}
        for path in self.shards:
            with opened(path) as shard:
                for row in shard.get_tensor("doc_key"):
                    key = row.tobytes().hex()
                    if key in places:
                        raise LogError(f"{path} holds document {key} twice, or {places[key].name} has it too. {AGAIN}")
                    places[key] = path
        return list(places)

    def vectors(self, layer: int, token_type: str) -> Floats32:
        """Return (documents, hidden); a document without such tokens has NaN."""
        i, k = self.layers.index(layer), self.token_types.index(token_type)
        parts = []
        for path in self.shards:
            with opened(path) as shard:
                scales = shard.get_tensor("scales")[:, i, k, None]
                states = shard.get_slice("states")[:, i, k].astype(np.float32)
            if not (np.isfinite(scales).all() and np.isfinite(states).all() and (scales >= 0).all()):
                raise LogError(f"{path} holds states that are not finite, or scales below 0: it is damaged. {AGAIN}")
            parts.append(np.where(scales > 0, states * scales, np.float32(np.nan)))
        return np.concatenate(parts)


def find_states(runs: Mapping[str, RunInfo], tasks: Sequence[str]) -> dict[tuple[str, str, str], TaskStates]:
    """Return (run, task, condition) -> states, for every run that left some.

    Raises
    ------
    LogError
        If a shard is broken, or the conditions of a run kept other layers, kinds of token or sizes.
    """
    found: dict[tuple[str, str, str], TaskStates] = {}
    for run, info in runs.items():
        root = None if info.run_dir is None else info.run_dir / "states"
        for folder in sorted(root.iterdir()) if root is not None and root.is_dir() else ():
            for task in tasks:
                shards = tuple(sorted(folder.glob(f"{glob.escape(task)}-rank*.safetensors")))
                if shards:
                    found[run, task, folder.name] = TaskStates(run, task, folder.name, shards)
    for (run, task, _), states in found.items():
        of_task = next(other for (name, asked, _), other in found.items() if (name, asked) == (run, task))
        if states.kept != of_task.kept:
            raise LogError(
                f"{states.shards[0]} has other layers, kinds of token or sizes than {of_task.shards[0]}. Evaluate "
                "every condition of a run with the same states and layers."
            )
    return found

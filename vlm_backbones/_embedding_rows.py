"""A backbone's token embeddings, read from its safetensors a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_backbones._hub import opening_error, weight_files
from vlm_backbones.backbones import Backbone

__all__ = ["FloatArray", "Rows", "find_tables", "why_unseen"]

FloatArray = NDArray[np.float32]

_INPUT = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
_OUTPUT = ("lm_head.weight", "embed_out.weight")
_BLOCK = 4096


@dataclass(frozen=True)
class Rows:
    """A table of one vector a token, where it lies."""

    path: Path
    name: str
    shape: tuple[int, int]

    def blocks(self) -> Iterator[tuple[int, FloatArray]]:
        """Yield the number of a block's first row, and its rows (rows, width)."""
        for start in range(0, self.shape[0], _BLOCK):
            yield start, self.read(slice(start, start + _BLOCK))

    def read(self, rows: slice) -> FloatArray:
        """Return some rows in float32."""
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as shard:
            found: FloatArray = shard.get_slice(self.name)[rows].float().numpy()
        return found


def find_tables(row: Backbone, config: Any) -> dict[str, Rows]:
    """Return the tables of a backbone's tokens by their words, the input's and, where it has its own, the output's.

    Raises
    ------
    CheckpointError
        If a file is damaged.
    """
    wanted: dict[str, tuple[str, ...]] = {"row": _INPUT}
    if not getattr(config, "tie_word_embeddings", True):
        wanted["output row"] = _OUTPUT
    found: dict[str, Rows] = {}
    try:
        for path in weight_files(row):
            for word, endings in wanted.items():
                for table in _tables(path, endings):
                    found.setdefault(word, table)
    except Exception as error:  # safetensors' own error is of no class that a package exports
        raise opening_error("backbone", row, error) from error
    return found


def _tables(path: Path, endings: tuple[str, ...]) -> list[Rows]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as shard:
        names = [name for name in shard.keys() if name.endswith(endings)]  # noqa: SIM118 (not a dictionary)
        shapes = [shard.get_slice(name).get_shape() for name in names]
    return [Rows(path, name, (int(shape[0]), int(shape[1]))) for name, shape in zip(names, shapes, strict=True)]


def why_unseen(row: Backbone) -> str:
    """Return why a backbone's tables were not found."""
    if Path(row.source).is_dir() and list(Path(row.source).glob("*.bin")):
        return "its weights are a pickle, which a check does not open"
    return "its weights were not read: they are not here, or hold no embedding by a known name"

"""Tokens that training uses and the backbone never learnt: rows that were added to its embedding, by us or before.

Such a row is learnt from the study's examples alone, by the one backbone whose tokenizer has the token.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.backbones import Backbone

__all__ = ["untrained_tokens"]

_SAMPLED_ROWS = 512
_COMMON = 0.05
"""Where more of the other rows look like a draw too, the whole model was hardly trained and nothing can be said."""


def untrained_tokens(row: Backbone, tokenizer: Any, config: Any, used: Collection[int]) -> dict[str, str]:
    """Return token -> why, of the added tokens among `used` whose embedding was never trained.

    Weights are read where they lie in a folder or in the hub's cache; elsewhere only the vocabulary's size tells.
    """
    size = int(config.vocab_size)
    added = sorted(set(map(int, getattr(tokenizer, "added_tokens_decoder", {}))) & set(used))
    known = [token for token in added if token < size]
    found = {token: "not among the backbone's own: its row starts at the mean" for token in added if token >= size}
    table = _rows(row, sorted({*known, *_spread(size)})) if known else None
    if table is not None:
        reasons = _Reasons(table, float(getattr(config, "initializer_range", 0.0) or 0.0))
        found |= {token: why for token in known if (why := reasons.of(token))}
    return {str(tokenizer.convert_ids_to_tokens(token)): found[token] for token in sorted(found)}


def _spread(size: int) -> list[int]:
    return [int(row) for row in np.unique(np.linspace(0, size - 1, _SAMPLED_ROWS).astype(int))]


class _Reasons:
    """Compares one row of an embedding with the others."""

    def __init__(self, table: dict[int, NDArray[np.float32]], initial_std: float) -> None:
        self._table, self._initial_std = table, initial_std
        rows = np.stack(list(table.values()))
        self._mean = rows.mean(0)
        self._distance = float(np.median(np.linalg.norm(rows - self._mean, axis=1)))
        self._draws = float(np.mean([self._is_draw(vector) for vector in rows]))

    def of(self, token: int) -> str | None:
        vector = self._table[token]
        if not vector.any():
            return "its row is zero"
        if np.linalg.norm(vector - self._mean) < 0.01 * self._distance:
            return "its row is the mean of the others"
        if any(other != token and np.array_equal(vector, row) for other, row in self._table.items()):
            return "its row is a copy of another"
        return "its row is random" if self._draws < _COMMON and self._is_draw(vector) else None

    def _is_draw(self, vector: NDArray[np.float32]) -> bool:
        """Whether a row is a draw of the normal distribution that untrained rows come from: mean, spread, tails."""
        n, std = vector.size, self._initial_std
        if std <= 0:
            return False
        z = vector.astype(np.float64) / std
        mean, spread, tails = z.mean(), z.std(), (z**4).mean() - 3
        return bool(
            abs(mean) < 3 / n**0.5 and abs(spread - 1) < 3 / (2 * n) ** 0.5 and abs(tails) < 4 * (24 / n) ** 0.5
        )


def _rows(row: Backbone, ids: Sequence[int]) -> dict[int, NDArray[np.float32]] | None:
    """Return rows of the input embedding; None where the weights are not here, or not in safetensors."""
    from safetensors import safe_open

    for path in _weights(row):
        with safe_open(path, framework="pt") as shard:
            names = list(shard.keys())
            name = next((key for key in names if key.endswith(("embed_tokens.weight", "wte.weight"))), None)
            if name is not None:
                table = shard.get_slice(name)
                rows = min(table.get_shape()[0], max(ids) + 1)
                return {token: table[token].float().numpy() for token in ids if token < rows}
    return None


def _weights(row: Backbone) -> list[Path]:
    folder = Path(row.source)
    if folder.is_dir():
        return sorted(folder.glob("*.safetensors"))
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(row.source, "model.safetensors.index.json", revision=row.revision)
    names = {"model.safetensors"}
    if isinstance(index, str):
        names = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    found = [try_to_load_from_cache(row.source, name, revision=row.revision) for name in sorted(names)]
    return [Path(path) for path in found if isinstance(path, str)]

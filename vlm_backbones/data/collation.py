"""Collation: packed examples to one flat row of tensors, without padding, and the layout of its attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from vlm_backbones.data.packing import PackedExample

__all__ = ["AttentionBlock", "AttentionLayout", "Calls", "answer_weights", "build_layout", "collate"]

_HIDDEN = float("-inf")


@dataclass(frozen=True)
class AttentionBlock:
    """Rows of similar length that one attention call handles: queries of a turn, keys of its prefix and itself."""

    queries: torch.Tensor  # (rows * query_length,), flat token indices, padding repeats token 0
    keys: torch.Tensor  # (rows * key_length,)
    mask: torch.Tensor  # (rows, 1, query_length, key_length), 0 or -inf
    query_positions: torch.Tensor  # (rows, query_length), in the turn as it is asked alone
    key_positions: torch.Tensor  # (rows, key_length)
    longest: int
    """Tokens of the longest turn with its prefix."""

    def to(self, device: torch.device) -> AttentionBlock:
        """Return the block on a device."""
        places = self.query_positions.to(device), self.key_positions.to(device)
        return AttentionBlock(
            self.queries.to(device), self.keys.to(device), self.mask.to(device), *places, longest=self.longest
        )

    def mask_within(self, window: int | None) -> torch.Tensor:
        """Return the mask where a token sees no further back than `window` tokens, itself included; None: all."""
        if window is None or window >= self.longest:
            return self.mask
        distance = self.query_positions[:, None, :, None] - self.key_positions[:, None, None, :]
        return self.mask.masked_fill(distance >= window, _HIDDEN)


class Calls:
    """How many attentions kept to a layout: a layer that is not given it sees the answers of other turns.

    No dataclass or list: what shares a model among processes copies those, and would count in the copy.
    """

    count = 0


@dataclass(frozen=True)
class AttentionLayout:
    """Which token sees which, as blocks; `inverse` puts their outputs back into the flat order."""

    blocks: tuple[AttentionBlock, ...]
    inverse: torch.Tensor  # (tokens,)
    read: torch.Tensor | None = None  # (tokens that are predicted from,), the only last hidden states that matter
    calls: Calls = field(default_factory=Calls)

    def to(self, device: torch.device | str, **_: Any) -> AttentionLayout:
        """Return the layout on a device."""
        place = torch.device(device)
        read = None if self.read is None else self.read.to(place)
        blocks = tuple(block.to(place) for block in self.blocks)
        return AttentionLayout(blocks, self.inverse.to(place), read, self.calls)


def answer_weights(packed: PackedExample, weighting: Literal["token", "inverse_sqrt_length"]) -> np.ndarray:
    """Return the weight of every supervised token: 1, or n**-0.5 for each of the n tokens of an answer."""
    sizes = packed.answer_sizes.astype(np.float32)
    weights: np.ndarray = np.ones_like(sizes) if weighting == "token" else sizes**-0.5
    return weights


def collate(examples: Sequence[PackedExample], *, weighting: Literal["token", "inverse_sqrt_length"]) -> dict[str, Any]:
    """Return one flat row: input_ids, position_ids (1, tokens); predict_at, labels, weights (supervised,); layout."""
    starts = np.cumsum([0, *(len(example.ids) for example in examples)])
    shifted = [example.predict_at + start for example, start in zip(examples, starts[:-1], strict=True)]
    predict_at = np.concatenate(shifted)
    layout = build_layout([example.lengths for example in examples])
    return {
        "input_ids": torch.from_numpy(np.concatenate([example.ids for example in examples]))[None],
        "position_ids": torch.from_numpy(np.concatenate([example.positions for example in examples]))[None],
        "predict_at": torch.from_numpy(predict_at),
        "labels": torch.from_numpy(np.concatenate([example.targets for example in examples])),
        "weights": torch.from_numpy(np.concatenate([answer_weights(example, weighting) for example in examples])),
        "layout": replace(layout, read=torch.from_numpy(np.unique(predict_at))),
    }


def build_layout(lengths: Sequence[tuple[int, ...]]) -> AttentionLayout:
    """Return the attention layout of examples that stand one after the other.

    Parameters
    ----------
    lengths
        Per example, tokens of the prefix and of each turn.
    """
    rows: list[tuple[int, int, int, int]] = []  # own start, own length, prefix start, prefix length
    position = 0
    for prefix, *turns in lengths:
        start = position
        if prefix:
            rows.append((start, prefix, start, 0))
        position += prefix
        for turn in turns:
            rows.append((position, turn, start, prefix))
            position += turn
    rows.sort(key=lambda row: -row[1])
    inverse = np.empty(position, dtype=np.int64)
    blocks, offset = [], 0
    for group in _group_by_length(rows):
        table = np.asarray(group)
        blocks.append(_build_block(table))
        width = int(table[:, 1].max())
        for number, (start, own, *_) in enumerate(group):
            inverse[start : start + own] = offset + number * width + np.arange(own)
        offset += len(group) * width
    return AttentionLayout(tuple(blocks), torch.from_numpy(inverse))


def _group_by_length(rows: list[tuple[int, int, int, int]]) -> list[list[tuple[int, int, int, int]]]:
    """Split rows, longest first, where a row would be padded to more than one and a half of its length."""
    groups: list[list[tuple[int, int, int, int]]] = []
    for row in rows:
        if not groups or row[1] * 1.5 < groups[-1][0][1]:
            groups.append([])
        groups[-1].append(row)
    return groups


def _build_block(rows: np.ndarray) -> AttentionBlock:
    own_start, own, prefix_start, prefix = (rows[:, column, None] for column in range(4))  # (rows, 1)
    query, before = np.arange(own.max())[None], np.arange(prefix.max())[None]
    queries = np.where(query < own, own_start + query, 0)  # (rows, query_length)
    keys = np.concatenate([np.where(before < prefix, prefix_start + before, 0), queries], axis=1)
    causal = np.tri(query.shape[1], dtype=bool)[None]  # (1, query_length, query_length)
    visible_prefix = np.broadcast_to((before < prefix)[:, None], (len(rows), query.shape[1], before.shape[1]))
    visible = np.concatenate([visible_prefix, np.broadcast_to(causal, (len(rows), *causal.shape[1:]))], axis=2)
    mask = np.where(visible, np.float32(0), np.float32(_HIDDEN))[:, None]
    query_positions = prefix + query  # (rows, query_length)
    key_positions = np.concatenate([np.broadcast_to(before, (len(rows), before.shape[1])), query_positions], axis=1)
    return AttentionBlock(
        torch.from_numpy(queries.reshape(-1)),
        torch.from_numpy(keys.reshape(-1)),
        torch.from_numpy(mask),
        torch.from_numpy(query_positions),
        torch.from_numpy(key_positions),
        longest=int(query_positions.max()) + 1,
    )

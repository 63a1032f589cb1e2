"""Keys and values of rows that come and go: written in place, joined from several caches without their padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

__all__ = ["Part", "aligned_layers", "build_cache", "join_caches"]

GROWTH_POSITIONS = 64

Part = tuple[Any, torch.Tensor, slice]


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values as views into larger tensors, so that a new token does not copy the earlier ones."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)  # type: ignore[no-untyped-call]
        self._room: list[torch.Tensor] = []  # what keys and values are views of; empty where they stand alone

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Append new positions, (rows, heads, new, size); return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if not self.keys.numel():
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        length, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if not self._room or self._room[0].shape[2] < end:
            self.reserve(end + GROWTH_POSITIONS + end // 4)
        self._room[0][:, :, length:end] = key_states
        self._room[1][:, :, length:end] = value_states
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values

    def reserve(self, positions: int) -> None:
        """Move to tensors of this many positions."""
        rows, heads, length, size = self.keys.shape
        self._room = [held.new_empty(rows, heads, positions, size) for held in (self.keys, self.values)]
        for room, held in zip(self._room, (self.keys, self.values), strict=True):
            room[:, :, :length] = held
        self.keys, self.values = (room[:, :, :length] for room in self._room)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, copied."""
        super().batch_select_indices(indices)
        self._room = []

    def adopt(self, room: list[torch.Tensor], length: int) -> None:
        """Take tensors of which the first `length` positions are filled."""
        self.dtype, self.device, self.is_initialized = room[0].dtype, room[0].device, True
        self._room = room
        self.keys, self.values = (held[:, :, :length] for held in room)


def build_cache() -> Any:
    """Return an empty cache for a forward pass of transformers."""
    return Cache(layer_class_to_replicate=_GrowingLayer)


def join_caches(parts: Sequence[Part], length: int) -> Any:
    """Return one cache of chosen rows of several, aligned at their last positions; see `aligned_layers`."""
    joined = build_cache()
    for states in aligned_layers(parts, length):
        layer = _GrowingLayer()
        layer.adopt(states, length)
        joined.layers.append(layer)
    return joined


def aligned_layers(parts: Sequence[Part], length: int) -> Iterator[list[torch.Tensor]]:
    """Yield each layer's keys and values of chosen rows of several caches, in tensors with room to grow.

    Parameters
    ----------
    parts
        (cache, rows, span): the rows that are kept, and the positions from the first that any of them uses to the last.
    length
        Positions that the new cache holds: of the part with the most.
    """
    for layers in zip(*(cache.layers for cache, _, _ in parts), strict=True):
        chosen = [(layer, rows, span) for layer, (_, rows, span) in zip(layers, parts, strict=True)]
        yield [
            _aligned([(getattr(old, name), rows, span) for old, rows, span in chosen], length)
            for name in ("keys", "values")
        ]


def _aligned(parts: Sequence[tuple[torch.Tensor, torch.Tensor, slice]], length: int) -> torch.Tensor:
    """Return the chosen rows of (rows, heads, positions, size) tensors in one, with room to grow."""
    _, heads, _, size = parts[0][0].shape
    total, start = sum(len(rows) for _, rows, _ in parts), 0
    room = parts[0][0].new_empty(total, heads, length + GROWTH_POSITIONS, size)
    for held, rows, span in parts:
        used, end = span.stop - span.start, start + len(rows)
        room[start:end, :, length - used : length] = held[rows, :, span]
        # Hidden places take part in the attention's products with weight zero: they must be finite.
        room[start:end, :, : length - used] = 0
        start = end
    return room

"""A flight's step as torch compiles it: over few shapes in memory that stays, so that a GPU replays a CUDA graph.

A large model that writes one token a row is otherwise bound by the starts of its thousands of kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, StaticLayer

from vlm_backbones.errors import ConfigError
from vlm_backbones.model_wrappers._cache import Part, aligned_layers
from vlm_backbones.out_of_memory import is_out_of_memory

__all__ = ["CompiledStep"]

HOW: dict[str, Any] = {"mode": "reduce-overhead"}  # CUDA graphs where there is a GPU
MOST_SHAPES = 256  # torch's own limit is 8, above which it refuses

Ranked = tuple[torch.Tensor, torch.Tensor]


class CompiledStep:
    """A compiled function of tokens, positions, visibility and a cache that lies here.

    All shapes share one memory, which grows to the largest and holds one cache at a time: graphs know addresses.
    """

    def __init__(self, function: Callable[..., Ranked]) -> None:
        torch._dynamo.config.recompile_limit = max(MOST_SHAPES, torch._dynamo.config.recompile_limit)
        self._function = torch.compile(function, fullgraph=True, dynamic=False, **HOW)
        self._memory: dict[Any, torch.Tensor] = {}

    def __call__(self, *given: Any) -> Ranked:
        """Return what the function returns; what a graph returned is overwritten by the next call.

        Raises
        ------
        ConfigError
            If torch cannot compile it.
        """
        try:
            return self._function(*given)
        except torch._dynamo.exc.TorchDynamoException as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"torch cannot compile this backbone's step ({reason}). Leave compile=true out."
            ) from error

    def free(self) -> None:
        """Give the memory back, and with it the cache that lies there."""
        self._memory.clear()

    def join_caches(self, parts: Sequence[Part], length: int, shape: tuple[int, int]) -> Any:
        """Return one cache as `_cache.join_caches` does, of a shape, (rows, positions), that may be larger.

        A part may be the cache that lies here: it is lost, also where memory runs out on the way.
        """
        counter = self._view("length", (1,), torch.zeros(1, dtype=torch.long, device=parts[0][1].device)).fill_(length)
        layers: list[Any] = []
        for index, states in enumerate(aligned_layers(parts, length)):
            held = [self._held((index, place), state[:, :, :length], shape) for place, state in enumerate(states)]
            layers.append(_FixedLayer(held, counter))
        layers[-1].is_last = True
        return Cache(layers=layers)

    def _held(self, name: Any, states: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        rows, heads, length, size = states.shape
        held = self._view(name, (shape[0], heads, shape[1], size), states)
        held.zero_()  # hidden places must be finite
        held[:rows, :, :length] = states
        return held

    def _view(self, name: Any, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """Return memory of this shape, at the same address each time where it was large enough."""
        size = math.prod(shape)
        if name not in self._memory or len(self._memory[name]) < size:
            self._memory[name] = like.new_empty(size)
        view = self._memory[name][:size].view(shape)
        # Else a graph would copy it at every step, or not be recorded, for the step writes to it.
        torch._dynamo.mark_static_address(view)
        return view


class _FixedLayer(StaticLayer):  # type: ignore[misc]
    """A layer's keys and values, (rows, heads, positions, size); an update returns all, and a mask hides what is spare.

    The layers share one counter of positions, (1,); the last of them moves it on.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, states: Sequence[torch.Tensor], counter: torch.Tensor) -> None:
        super().__init__(max_cache_len=states[0].shape[2])  # type: ignore[no-untyped-call]
        self.keys, self.values = states
        self.cumulative_length, self.is_last = counter, False
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Write one new position, (rows, heads, 1, size); return all keys and values."""
        self.keys.index_copy_(2, self.cumulative_length, key_states)
        self.values.index_copy_(2, self.cumulative_length, value_states)
        if self.is_last:
            self.cumulative_length.add_(1)
        return self.keys, self.values

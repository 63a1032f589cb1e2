"""The control of every probe: the same architecture with random weights, one layer at a time in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["random_weights"]


@contextmanager
def random_weights(language_model: Any, seed: int = 0) -> Iterator[None]:
    """Let a backbone run with random weights inside the block; its own come back after each layer.

    Matrices are drawn with the configuration's `initializer_range` as standard deviation, norms are 1 and biases 0, as
    transformers starts a model. Each draw depends on the seed and the parameter's name alone. A layer gets its weights
    when it is called and gives them back when it has returned, so that memory grows by one layer.
    """
    std = float(getattr(language_model.config, "initializer_range", 0.02))
    layers = [(f"layers.{index}", layer) for index, layer in enumerate(language_model.layers)]
    others = [("embed_tokens", language_model.get_input_embeddings()), ("norm", language_model.norm)]
    held: dict[nn.Module, list[torch.Tensor]] = {}

    def randomise(name: str, module: nn.Module) -> None:
        held[module] = [parameter.data for parameter in module.parameters()]
        for inner, parameter in module.named_parameters():
            parameter.data = _drawn(f"{seed}:{name}.{inner}", inner, parameter.data, std)

    def restore(module: nn.Module) -> None:
        for parameter, own in zip(module.parameters(), held.pop(module, []), strict=False):
            parameter.data = own

    handles = []
    for name, layer in [*others, *layers]:
        handles.append(layer.register_forward_pre_hook(lambda module, _, name=name: randomise(name, module)))
        handles.append(layer.register_forward_hook(lambda module, _, output: restore(module), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in list(held):
            restore(module)


def _drawn(key: str, name: str, like: torch.Tensor, std: float) -> torch.Tensor:
    if like.ndim < 2:
        return torch.zeros_like(like) if name.endswith("bias") else torch.ones_like(like)
    generator = torch.Generator(like.device).manual_seed(int(hashlib.sha256(key.encode()).hexdigest()[:15], 16))
    return (torch.randn(like.shape, generator=generator, device=like.device) * std).to(like)

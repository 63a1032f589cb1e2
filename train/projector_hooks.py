"""What the projector needs inside the model's forward: inputs of its own type, and a gradient in every micro-batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["add_projector_hooks"]


def add_projector_hooks(model: Any) -> None:
    """Let features reach the projector in its weights' type, and a call with `anchor=True` reach it at all.

    Processes wait for each other's gradients of the same parameters. A micro-batch without images says `anchor=True`:
    a feature of zeros then goes through the projector inside the model's forward, where hooks that gather shared
    weights see it, and counts nothing.
    """
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector

    def fit(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return args[0].to(_first_layer(projector).weight.dtype), *args[1:]

    def anchor(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if kwargs.pop("anchor", False):
            embeddings = kwargs["inputs_embeds"]
            width = _first_layer(projector).in_features
            tower(tower.nothing())  # ZeRO-3 wants the same modules in the same order in every process
            nothing = projector(torch.zeros(1, 1, width, device=embeddings.device))
            kwargs["inputs_embeds"] = embeddings + 0.0 * nothing.sum().to(embeddings.dtype)
        return args, kwargs

    projector.register_forward_pre_hook(fit)
    model.model.language_model.register_forward_pre_hook(anchor, with_kwargs=True)


def _first_layer(projector: Any) -> nn.Linear:
    layer: nn.Linear = projector.linear_1
    return layer

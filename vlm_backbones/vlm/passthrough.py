"""Stand-ins for the frozen tower in training: cached states or the tower itself, standardised; and the fold back.

The projector trains on features of zero mean and unit variance. Before a checkpoint is saved, mean and deviation
are folded into the projector's first layer, so a saved checkpoint reads the tower's own features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

__all__ = ["PassthroughTower", "StandardizedTower", "fold_standardization"]


class _Standardizer(nn.Module):
    """Shared by both stand-ins: subtract the mean, divide by the deviation, present as hidden states."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, layers: tuple[int, ...], mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def present(self, features: torch.Tensor) -> BaseModelOutputWithPooling:
        """Return features (images, tokens, layers * width) as the output of a tower."""
        states = (features.to(self.mean.dtype) - self.mean) / self.std
        kept: Any = dict(zip(self.layers, states.chunk(len(self.layers), dim=-1), strict=True))
        return BaseModelOutputWithPooling(hidden_states=kept)  # by the number that a layer has in the tower


class PassthroughTower(_Standardizer):
    """Takes cached hidden states in place of pixels, so that the projector still runs inside the model's forward."""

    def nothing(self) -> torch.Tensor:
        """Return an input of zeros."""
        return torch.zeros(1, 1, len(self.mean), device=self.mean.device)

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Return the given states, standardised."""
        return self.present(pixel_values)


class StandardizedTower(_Standardizer):
    """The frozen tower itself, where states are not cached; through float16, as cached ones."""

    def __init__(self, tower: nn.Module, layers: tuple[int, ...], mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__(layers, mean, std)
        self.tower = tower.requires_grad_(False).eval()

    def nothing(self) -> torch.Tensor:
        """Return an input of zeros."""
        config: Any = self.tower.config
        return torch.zeros(1, 3, config.image_size, config.image_size, device=self.mean.device)

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Return the tower's states at the feature layers, standardised."""
        with torch.no_grad():
            states = self.tower(pixel_values, output_hidden_states=True).hidden_states
        return self.present(torch.cat([states[layer] for layer in self.layers], dim=-1).half())


def fold_standardization(model: LlavaForConditionalGeneration, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Turn a projector of standardised features into one of raw features: W/std and b - W/std * mean."""
    layer = model.model.multi_modal_projector.linear_1
    with torch.no_grad():
        weight = layer.weight.double() / std.double()
        layer.bias.copy_(layer.bias.double() - weight @ mean.double())
        layer.weight.copy_(weight)

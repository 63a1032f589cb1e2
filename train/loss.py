"""The supervised tokens' loss without their logits: Liger's fused linear cross-entropy, where it is installed on a GPU.

Three float32 copies of these logits are a GB for 1,300 tokens of Llama 3's vocabulary. Liger makes them a chunk at a
time, with their gradients. Its last digits are its own, so run.json says of each stage whether it was used.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from vlm_backbones.recipe import StageRecipe

__all__ = ["FusedHead", "fuse_head", "has_fused_loss"]


def has_fused_loss(recipe: StageRecipe) -> bool:
    """Whether a stage's loss is Liger's, which knows a sum over tokens that all weigh alike."""
    return recipe.answer_weighting == "token" and torch.cuda.is_available() and find_spec("liger_kernel") is not None


class FusedHead(nn.Module):
    """Stands in for the output head in training and returns, in place of logits, the sum of the targets' losses.

    As a module of the model, so that whatever shares its weights among processes gathers them for it.
    """

    targets: torch.Tensor  # (supervised,), set before each forward

    def __init__(self, weight: nn.Parameter) -> None:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        super().__init__()
        self.weight = weight  # (vocabulary, hidden)
        self._loss: Any = LigerFusedLinearCrossEntropyLoss(reduction="sum")

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the sum, of states (1, supervised, hidden)."""
        total: torch.Tensor = self._loss(self.weight, states[0], self.targets)
        return total


def fuse_head(model: nn.Module) -> None:
    """Put a `FusedHead` over the same weight in the output head's place, within adapters too."""
    name = next(name for name, _ in model.named_modules() if name.endswith("lm_head"))
    parent: Any = model.get_submodule(name.rpartition(".")[0])
    parent.lm_head = FusedHead(parent.lm_head.weight)

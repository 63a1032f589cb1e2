"""Which decoder layers can be computed by hand-written passes: Llama's own, unchanged."""

from __future__ import annotations

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

__all__ = ["is_plain_layer"]


def is_plain_layer(layer: nn.Module) -> bool:
    """Return whether a layer is Llama's own: float32 on a CPU, SiLU, no biases, adapters or quantisation."""
    linear = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    return (
        type(layer) is LlamaDecoderLayer
        and layer.self_attn.config.hidden_act == "silu"
        and len(linear) == 7
        and all(type(module) is nn.Linear and module.bias is None for module in linear)
        and all(parameter.dtype == torch.float32 and parameter.device.type == "cpu" for parameter in layer.parameters())
    )

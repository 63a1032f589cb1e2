"""QLoRA: the LLM's linear layers in 4 bits while adapters are trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from vlm_backbones.errors import ConfigError
from vlm_backbones.train.processes import processes

__all__ = ["quantize_layers"]


def quantize_layers(language_model: nn.Module, compute_dtype: torch.dtype) -> None:
    """Replace every linear layer by its NF4 copy.

    Raises
    ------
    ConfigError
        If bitsandbytes is missing or does not work on this device.
    """
    bnb = _import_bitsandbytes()
    device = processes().device
    for name, layer in list(_linear_layers(language_model)):
        try:
            copy = bnb.nn.Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=layer.bias is not None,
                compute_dtype=compute_dtype,
                compress_statistics=True,
                quant_type="nf4",
            )
            weight = bnb.nn.Params4bit(
                layer.weight.detach(), requires_grad=False, compress_statistics=True, quant_type="nf4"
            )
            copy.weight = weight.to(device)
        except (RuntimeError, NotImplementedError, ImportError) as error:
            raise ConfigError(
                f"quantization: nf4: bitsandbytes cannot quantise {name} on {device} ({error}). Update bitsandbytes, "
                "or leave quantization out of the recipe."
            ) from error
        if layer.bias is not None:
            copy.bias = nn.Parameter(layer.bias.detach().to(device), requires_grad=False)
        parent, _, leaf = name.rpartition(".")
        setattr(language_model.get_submodule(parent), leaf, copy)


def _import_bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(
            f"quantization: nf4 needs bitsandbytes ({error}): pip install 'vlm-backbones[qlora]', or leave "
            "quantization out of the recipe."
        ) from error
    return bitsandbytes


def _linear_layers(language_model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in language_model.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module

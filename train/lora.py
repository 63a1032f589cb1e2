"""LoRA on the language model only: adapters by pattern."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from vlm_backbones.errors import ConfigError
from vlm_backbones.recipe import Lora

_LANGUAGE_MODEL = "model.language_model"


def lora_pattern(model: nn.Module, lora: Lora) -> str:
    """Return the pattern of adapted modules: leaf names would hit the vision tower's q_proj too.

    Raises
    ------
    ConfigError
        If a target is no linear layer of the language model.
    """
    prefix = f"{_LANGUAGE_MODEL}."
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    leaves = sorted({name.rpartition(".")[2] for name in linear if name.startswith(prefix)})
    wanted = leaves if lora.target == "all-linear" else [lora.target] if isinstance(lora.target, str) else lora.target
    unknown = sorted(set(wanted) - set(leaves))
    if unknown:
        raise ConfigError(f"lora.target {', '.join(unknown)}: the LLM has no such layer. Known: {', '.join(leaves)}.")
    return rf"{re.escape(prefix)}.*\.({'|'.join(map(re.escape, wanted))})"


def add_lora(model: Any, lora: Lora, *, quantized: bool = False) -> Any:
    """Return the model wrapped by peft, with only the adapters trainable in the language model."""
    from peft import LoraConfig, get_peft_model

    build: Any = LoraConfig  # typed with an integer alpha, which is only ever divided by r
    pattern = lora_pattern(model, lora)
    config = build(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=pattern)
    model.is_loaded_in_4bit = quantized  # by which peft chooses adapters that know 4-bit layers
    adapted = get_peft_model(model, config)
    del model.is_loaded_in_4bit  # accelerate would refuse to move the model
    return adapted

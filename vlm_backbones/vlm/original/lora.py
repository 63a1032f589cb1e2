"""An original checkpoint trained with LoRA: the LLM it started from, its adapter, and what was trained whole."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import torch

from vlm_backbones.errors import CheckpointError
from vlm_backbones.json_text import parse_json
from vlm_backbones.vlm.original.weights import Tensors, read_file, read_tensors

__all__ = ["find_base", "is_lora", "read_lora"]

_SETTINGS = "adapter_config.json"
_WRAPPER = re.compile(r"^base_model\.(?:model\.(?=model\.|lm_head\.))?")
_UNUSUAL = ("use_dora", "fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication")


def is_lora(folder: Path) -> bool:
    """Return whether a folder holds an adapter in place of whole weights."""
    return (folder / _SETTINGS).is_file()


def find_base(folder: Path, given: Path | None) -> Path:
    """Return the folder of the LLM that an adapter belongs to.

    Raises
    ------
    CheckpointError
        If none is given and the one that the adapter names is no folder here.
    """
    named = _read_settings(folder).get("base_model_name_or_path")
    base = given or Path(str(named))
    if not os.path.isdir(base):  # also where no folder can have such a name
        raise CheckpointError(
            f"{folder} holds a LoRA adapter of {named!r}: run `vlm-backbones convert {folder} OUT --model-base DIR` "
            "with that LLM's folder."
        )
    return base


def read_lora(folder: Path, base: Path) -> Tensors:
    """Return all tensors under their original names, the adapter added to the LLM's weights.

    Raises
    ------
    CheckpointError
        If a file is missing or cannot be read, the adapter is of an unusual kind, or has a tensor without a place.
    """
    settings = _read_settings(folder)
    unusual = [name for name in _UNUSUAL if settings.get(name)]
    if unusual:
        raise CheckpointError(f"{folder / _SETTINGS}: {', '.join(unusual)} cannot be merged. Merge it with peft first.")
    scale = settings["lora_alpha"] / settings["r"] ** (0.5 if settings.get("use_rslora") else 1.0)
    tensors = read_tensors(base)
    adapter = _stripped(_read_one(folder, "adapter_model.safetensors", "adapter_model.bin"))
    for name in [name for name in adapter if name.endswith(".lora_A.weight")]:
        layer = name.removesuffix("lora_A.weight")
        down, up = adapter.pop(name), adapter.pop(f"{layer}lora_B.weight", None)
        weight = tensors.get(f"{layer}weight")
        if up is None or weight is None:
            raise CheckpointError(f"{folder}: the adapter's {name} has no lora_B or no weight in {base}.")
        tensors[f"{layer}weight"] = (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)
    if adapter:
        raise CheckpointError(f"{folder}: the adapter's {', '.join(sorted(adapter)[:12])} have no place.")
    return tensors | _stripped(_read_one(folder, "non_lora_trainables.bin"))


def _stripped(tensors: Tensors) -> Tensors:
    """Remove the names of peft's wrappers."""
    return {_WRAPPER.sub("", name): value for name, value in tensors.items()}


def _read_one(folder: Path, *names: str) -> dict[str, torch.Tensor]:
    for name in names:
        if (folder / name).is_file():
            return read_file(folder / name)
    raise CheckpointError(f"{folder} holds a LoRA adapter but no {' or '.join(names)}. Copy it too.")


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = parse_json((folder / _SETTINGS).read_text(encoding="utf-8"))
        rank, alpha = settings["r"], settings["lora_alpha"]
        if not all(isinstance(one, int | float) and math.isfinite(one) for one in (rank, alpha)) or rank <= 0:
            raise ValueError(f"r is {rank!r:.40}, lora_alpha {alpha!r:.40}")
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{folder / _SETTINGS}: expected r and lora_alpha ({error!r}).") from error
    return settings

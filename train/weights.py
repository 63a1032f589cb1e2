"""The weights of a training: a copy of the model that is trained, and what it learned taken back into the model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor

from vlm_backbones.train.processes import is_handed_weights, processes

__all__ = ["held_bytes", "load_trainable", "lower_frozen_layers", "take_back", "trainable_state", "working_copy"]


def working_copy(model: Any, replaced: Mapping[nn.Module, nn.Module] | None = None) -> Any:
    """Return a copy of a model's modules over the same weights, so that nothing is held twice.

    What a launcher does to the copy (other devices, other types, a share of the weights for each process) leaves the
    model as it is; while neither happens, training the copy trains the model.

    Parameters
    ----------
    replaced
        Modules of the model that have another in their place in the copy.
    """
    stand_ins = replaced or {}
    left = {id(parameter) for module in stand_ins for parameter in module.parameters()}
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
        if id(parameter) not in left
    }
    memo |= {id(module): other for module, other in stand_ins.items()}
    return copy.deepcopy(model, memo)


def lower_frozen_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold the weights of frozen linear layers in the type in which they are multiplied anyway.

    Embeddings and norms stay: sums along the layers keep float32.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        if type(module) is nn.Linear and id(module.weight) not in embeddings:
            for parameter in module.parameters():
                if not parameter.requires_grad:
                    lower = torch.empty_like if is_handed_weights() else torch.Tensor.to
                    parameter.data = lower(parameter.data, dtype=dtype)


def take_back(trained: nn.Module, model: nn.Module) -> None:
    """Copy each trained parameter, whole, into the main process's model; all processes take part, name by name."""
    places = dict(model.named_parameters())
    is_main = processes().is_main_process
    for name, value in _whole_parameters(trained):
        if is_main:
            places[name].data.copy_(value)


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the trained parameters, by name; tied ones once."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def load_trainable(model: nn.Module, path: Path) -> None:
    """Copy saved parameters into a model; every name of the file must exist in it."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in load_file(path).items():
            parameters[name].copy_(tensor)


def _whole_parameters(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what was trained, one parameter at a time, gathered from all processes where they share it."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, _whole(parameter)


def _whole(parameter: Any) -> torch.Tensor:
    whole: torch.Tensor
    if isinstance(parameter.data, DTensor):
        whole = parameter.data.full_tensor()
        return whole
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):  # DeepSpeed keeps float32 in its optimizer
        from deepspeed.utils import safe_get_full_fp32_param

        whole = safe_get_full_fp32_param(parameter)
        return whole
    whole = parameter.detach()
    return whole


def held_bytes(model: nn.Module, optimizer: Any) -> int:
    """Return the bytes of weights, gradients and moments that this process holds, of shared ones its part."""
    parameters = list(model.parameters())
    gradients = [parameter for parameter in parameters if parameter.requires_grad]
    moments = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    own = [value.to_local() if isinstance(value, DTensor) else value for value in (*parameters, *gradients, *moments)]
    return sum(value.numel() * value.element_size() for value in own)

"""The processes of one training: one without a launcher, many under torchrun or accelerate launch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list

from vlm_backbones.errors import ConfigError
from vlm_backbones.study import Sharding

__all__ = ["found_by_main", "is_handed_weights", "processes", "sharding"]


def processes() -> PartialState:
    """Return accelerate's view of this process among its peers, joining them at the first call."""
    state = PartialState(cpu=not torch.cuda.is_available())
    if sharding() != "none" and state.distributed_type is DistributedType.MULTI_CPU:
        # accelerate shares weights between GPUs only; torch and DeepSpeed do between CPUs too
        state.distributed_type = DistributedType.MULTI_GPU
    return state


def sharding() -> Sharding:
    """Return what the processes of this training share, as `accelerate launch` was told by its configuration.

    Raises
    ------
    ConfigError
        If it was told something that the trainer does not know.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        if os.environ.get("FSDP_VERSION") != "2":
            raise ConfigError("accelerate's configuration asks for FSDP 1: set fsdp_version: 2 in its fsdp_config.")
        return "fsdp2"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
        if stage not in {"2", "3"}:
            raise ConfigError(f"accelerate's configuration has zero_stage {stage or 'not set'}: set it to 2 or 3.")
        return "zero2" if stage == "2" else "zero3"
    return "none"


def is_handed_weights() -> bool:
    """Return whether the main process hands this one its share of the weights, so that it need not read any."""
    return sharding() == "fsdp2" and not processes().is_main_process


def found_by_main(find: Callable[[], Any]) -> Any:
    """Return what the main process finds, in all processes: on a shared disk others might see another state."""
    found = [find() if processes().is_main_process else None]
    broadcast_object_list(found)
    return found[0]

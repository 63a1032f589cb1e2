"""How a training on several GPUs is started: accelerate launch with the shipped configuration. No torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm_backbones._study_loading import package_folder
from vlm_backbones.study import Sharding

__all__ = ["LAUNCHER", "SHUTDOWN_SECONDS", "Nodes", "accelerate_config", "launch_arguments", "launch_command"]

LAUNCHER = "accelerate.commands.launch"
SHUTDOWN_SECONDS = 300
"""What processes that are asked to end get for saving their shares of a large model; torchrun's own is 30."""


@dataclass(frozen=True)
class Nodes:
    """The machines that train together, and this one's place among them."""

    count: int = 1
    rank: int = 0
    first: str = "127.0.0.1"
    """Name of the machine of rank 0."""
    port: int = 0
    """Free on it; 0 finds one, where it is the only machine."""


def accelerate_config(sharding: Sharding) -> Path:
    """Return the shipped configuration of a sharding, for `accelerate launch --config_file`."""
    return package_folder("vlm_backbones.train") / "accelerate" / f"{sharding}.yaml"


def launch_arguments(
    module: str, arguments: Sequence[str], *, processes: int, sharding: Sharding, nodes: Nodes | None = None
) -> list[str]:
    """Return the arguments of `LAUNCHER` that run a module in so many processes over all nodes."""
    place = nodes or Nodes()
    options = {
        "config_file": str(accelerate_config(sharding)),
        "num_processes": str(processes),
        "num_machines": str(place.count),
        "machine_rank": str(place.rank),
        "main_process_ip": place.first,
        "main_process_port": str(place.port),
    }
    return [*(word for name, value in options.items() for word in (f"--{name}", value)), "-m", module, *arguments]


def launch_command(module: str, arguments: Sequence[str], *, processes: int, sharding: Sharding) -> list[str]:
    """Return the command that does so on this machine."""
    words = launch_arguments(module, arguments, processes=processes, sharding=sharding)
    return [sys.executable, "-m", LAUNCHER, *words]

"""Out of memory in training: the same steps over the same examples, in smaller parts.

A step's gradient is a sum over its examples, however they are divided, so the effective batch never changes. Training
begins again at its last saved step, with every part of the model new: what was allocated is gone.
"""

from __future__ import annotations

import gc
import json
from pathlib import Path

import torch

from vlm_backbones.cache import atomic_write_text
from vlm_backbones.errors import ConfigError
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.train.processes import processes

__all__ = ["SmallerParts", "free_memory", "halve", "is_out_of_memory", "recorded_parts", "within_memory"]

_FILE = "memory.json"
_CPU_MESSAGE = "DefaultCPUAllocator: can't allocate memory"


class SmallerParts(Exception):  # noqa: N818  (it asks to begin again, and is no error)
    """Training shall begin again with the parts that `memory.json` names."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or _CPU_MESSAGE in str(error)


def recorded_parts(run_dir: Path) -> dict[str, int]:
    """Return by stage the examples a forward pass that were found to fit; empty where all fitted."""
    try:
        content = json.loads((run_dir / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): int(size) for name, size in content.items()} if isinstance(content, dict) else {}


def within_memory(recipe: StageRecipe, run_dir: Path, stage: str) -> StageRecipe:
    """Return the recipe with the parts that were found to fit; the loss does not depend on them."""
    size = recorded_parts(run_dir).get(stage)
    return recipe if size is None else recipe.model_copy(update={"micro_batch_size": size})


def halve(run_dir: Path, stage: str, size: int) -> None:
    """Note that `size` examples a pass are too many, and ask to begin again with fewer.

    Raises
    ------
    SmallerParts
        In one process, which can begin again by itself.
    ConfigError
        If one example is too many already, or several processes train: the others wait for this one and must be ended.
    """
    if size == 1:
        raise ConfigError(
            f"{stage}: out of memory with one example a pass. Set gradient_checkpointing or lora in the recipe, or "
            "share the weights between GPUs (docs/reproducing.md)."
        )
    smaller = next(part for part in range(size - 1, 0, -1) if size % part == 0)
    atomic_write_text(run_dir / _FILE, json.dumps({**recorded_parts(run_dir), stage: smaller}))
    said = f"{stage}: out of memory with {size} examples a pass; {smaller} from the last saved step on, steps as before"
    if processes().num_processes > 1:
        raise ConfigError(f"{said}. Run the same command again.")
    print(said, flush=True)
    raise SmallerParts(said)


def free_memory() -> None:
    """Give back what the broken-off training held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

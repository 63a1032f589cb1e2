"""Out of memory in training: the same steps over the same examples, with activations recomputed, then in smaller parts.

Recomputed activations are those that would have been kept, and a step's gradient is a sum over its examples, however
they are divided, so neither changes what is learned. Training begins again at its last saved step, with every part of
the model new: what was allocated is gone.
"""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import torch

from vlm_backbones.cache import atomic_write_text
from vlm_backbones.errors import ConfigError
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.train.processes import processes

__all__ = ["LessMemory", "free_memory", "use_less", "within_memory"]

_FILE = "memory.json"


class LessMemory(Exception):  # noqa: N818  (it asks to begin again, and is no error)
    """Training shall begin again with what `memory.json` changes in the recipe."""


def within_memory(recipe: StageRecipe, run_dir: Path, stage: str) -> StageRecipe:
    """Return the recipe with what was found to fit; the loss does not depend on it.

    Activations are recomputed where the recipe leaves it open and memory was not enough without, or several GPUs train:
    those cannot begin again by themselves.
    """
    several = processes().num_processes > 1 and torch.cuda.is_available()
    open_ = {"gradient_checkpointing": several} if recipe.gradient_checkpointing is None else {}
    return recipe.model_copy(update={**open_, **_read_changes(run_dir).get(stage, {})})


def _read_changes(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return by stage what the recipe had to change; empty where all fitted."""
    try:
        content = json.loads((run_dir / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {stage: changes for stage, changes in content.items() if isinstance(changes, dict)}


def use_less(run_dir: Path, stage: str, recipe: StageRecipe, within: StageRecipe, size: int) -> None:
    """Note what a stage does with less memory, and ask to begin again: recompute activations first, then halve parts.

    Parameters
    ----------
    recipe, within
        As the study gives it, and as `within_memory` does, which was too much.
    size
        Examples a pass.

    Raises
    ------
    LessMemory
        In one process, which can begin again by itself.
    ConfigError
        If one example is too many already, or several processes train: the others wait for this one and must be ended.
    """
    change: dict[str, Any]
    if recipe.gradient_checkpointing is None and not within.gradient_checkpointing:
        change, instead = {"gradient_checkpointing": True}, "activations are recomputed"
    elif size == 1:
        remedy = "Set" if within.gradient_checkpointing else "Leave gradient_checkpointing out of the recipe, set"
        raise ConfigError(
            f"{stage}: out of memory with one example a pass. {remedy} lora, or share the weights "
            "between GPUs (docs/reproducing.md)."
        )
    else:
        smaller = next(part for part in range(size - 1, 0, -1) if size % part == 0)
        change, instead = {"micro_batch_size": smaller}, str(smaller)
    changes = _read_changes(run_dir)
    atomic_write_text(run_dir / _FILE, json.dumps({**changes, stage: {**changes.get(stage, {}), **change}}))
    said = f"{stage}: out of memory with {size} examples a pass; {instead} from the last saved step on, steps as before"
    if processes().num_processes > 1:
        raise ConfigError(f"{said}. Run the same command again.")
    print(said, flush=True)
    raise LessMemory(said)


def free_memory() -> None:
    """Give back what the broken-off training held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

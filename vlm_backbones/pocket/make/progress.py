"""What both trainings of the maker share: the learning-rate schedule and resumable state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vlm_backbones.cache import staged_path

__all__ = ["Checkpointer", "cosine_lr"]


def cosine_lr(step: int, steps: int, peak: float, *, warmup: int, floor: float = 0.05) -> float:
    """Return the learning rate: linear warm-up, then cosine down to `floor` times the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


class Checkpointer:
    """Saves and restores the state dicts of a training in one file of our own."""

    def __init__(self, path: Path, parts: Mapping[str, Any]) -> None:
        self.path, self.parts = path, parts

    def resume(self) -> int:
        """Load the saved state where there is one; return the step to go on from."""
        if not self.path.is_file():
            return 0
        state = torch.load(self.path, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return int(state["step"])

    def save_every(self, step: int, steps: int) -> None:
        """Save after every so many steps."""
        if step % steps == 0:
            state = {name: part.state_dict() for name, part in self.parts.items()}
            with staged_path(self.path) as staged:
                torch.save({**state, "step": step}, staged)

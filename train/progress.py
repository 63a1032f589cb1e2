"""Progress of a stage as one small JSON file, so that whoever started the process can show time left."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from vlm_backbones.cache import atomic_write_text

_EVERY_S = 0.5


def quieten() -> None:
    """Silence the libraries' own bars and notes: progress.json and metrics.jsonl say it all."""
    from transformers.utils import logging

    chatter: Any = logging
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()


class Progress:
    """Writes {stage, step, steps, seconds_left} by atomic rename, at most twice a second."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage = path, stage
        self._start: tuple[float, int] | None = None
        self._written = 0.0

    def update(self, step: int, steps: int) -> None:
        """Record that `step` of `steps` are done."""
        now = time.monotonic()
        if self._start is None:
            self._start = (now, step)
        if now - self._written < _EVERY_S and step < steps:
            return
        self._written = now
        since, first = self._start
        left = (now - since) / (step - first) * (steps - step) if step > first else None
        row = {"stage": self.stage, "step": step, "steps": steps, "seconds_left": left}
        atomic_write_text(self.path, json.dumps(row))

"""What runs beside the Trainer's steps: stopping on SIGTERM, metrics.jsonl and progress.json."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vlm_backbones.train.progress import Progress

__all__ = ["RunCallback", "StopOnSigterm"]


class StopOnSigterm(TrainerCallback):
    """On SIGTERM (a preempted or cancelled job) saves after the running step and stops; all processes together."""

    def __init__(self) -> None:
        self.is_asked = False
        self._before: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen; `on_train_end` gives the signal back."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        self.is_asked = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop where any process was asked to: one that went on alone would wait for the others forever."""
        if args.world_size > 1:
            asked = torch.tensor(float(self.is_asked), device=args.device)
            torch.distributed.all_reduce(asked)
            self.is_asked = bool(asked.item())
        if self.is_asked:
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the signal to whom it belonged, and end where it came."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if self.is_asked:
            print(f"stopped by SIGTERM after step {state.global_step}, saved; run again to continue", flush=True)
            raise SystemExit(128 + signal.SIGTERM)


class RunCallback(TrainerCallback):
    """Appends to metrics.jsonl and keeps progress.json."""

    def __init__(self, run_dir: Path, stage: str, tokens_per_step: list[int]) -> None:
        self._metrics, self._stage, self._tokens = run_dir / "metrics.jsonl", stage, tokens_per_step
        self._progress = Progress(run_dir / "progress.json", stage)
        self._start = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop the lines of steps that are about to be run again."""
        if not state.is_world_process_zero or not self._metrics.is_file():
            return
        lines = self._metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and self._is_before(json.loads(line), state.global_step)]
        self._metrics.write_text("".join(kept), encoding="utf-8")

    def _is_before(self, row: dict[str, Any], step: int) -> bool:
        return bool(row["stage"] != self._stage or row["step"] <= step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append one line: stage, step, loss, lr, grad_norm, tokens, seconds."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        row = {
            "stage": self._stage,
            "step": state.global_step,
            "loss": logs["loss"],
            "lr": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            "tokens": sum(self._tokens[: state.global_step]),
            "seconds": round(time.monotonic() - self._start, 3),
        }
        with self._metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep progress.json."""
        if state.is_world_process_zero:
            self._progress.update(state.global_step, state.max_steps)

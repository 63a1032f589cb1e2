"""transformers' Trainer with the packed loss, small checkpoints, metrics.jsonl and progress.json."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vlm_backbones.errors import ConfigError
from vlm_backbones.train.progress import Progress

TRAINABLE_FILE = "trainable.safetensors"
_SEAL = "seal.json"


class BackboneTrainer(Trainer):
    """Trainer over micro-batches that are collated already; each item of the dataset is one micro-batch."""

    def __init__(self, *args: Any, projector_learning_rate: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_is_scaled_for_ga = True
        self._projector_learning_rate = projector_learning_rate

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return Trainer's optimizer, the projector in groups of its own where it has a learning rate of its own."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if is_new and self._projector_learning_rate is not None:
            trained: Any = model or self.model
            named = trained.named_parameters()
            projector = {id(parameter) for name, parameter in named if "multi_modal_projector" in name}
            _give_own_rate(optimizer, projector, self._projector_learning_rate)
        return optimizer

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """Return the sum of the answers' weights over the step, on all devices."""
        total = sum((batch["weight_sum"] for batch in batch_samples), torch.zeros(())).to(device)
        return self.accelerator.gather(total).sum() if self.args.world_size > 1 else total

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the weighted mean of the supervised tokens' cross-entropy over the step."""
        outputs = model(
            input_ids=inputs["input_ids"],
            position_ids=inputs["position_ids"],
            pixel_values=inputs.get("pixel_values"),
            logits_to_keep=inputs["predict_at"],
            layout=inputs["layout"],
            use_cache=False,
        )
        logits = outputs.logits[0].float()  # (supervised, vocabulary)
        losses = nn.functional.cross_entropy(logits, inputs["labels"], reduction="none")
        loss = (losses * inputs["weights"]).sum() / (num_items_in_batch or inputs["weight_sum"])
        if not torch.isfinite(loss):
            raise ConfigError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}: lower the recipe's learning_rate."
            )
        if inputs.get("pixel_values") is None:
            loss = loss + _projector_anchor(model)
        loss = loss * self.accelerator.num_processes  # gradients are averaged over devices
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the estimate walks over all parameters at every step."""
        return 0

    def _unwrapped(self) -> nn.Module:
        model: nn.Module = self.accelerator.unwrap_model(self.model)
        return model

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write what is trained, under the names it has in memory: the frozen tower stays out."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trainable_state(self._unwrapped()), folder / TRAINABLE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trainable(model or self._unwrapped(), Path(resume_from_checkpoint) / TRAINABLE_FILE)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            seal(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}")


def _give_own_rate(optimizer: torch.optim.Optimizer, chosen: set[int], rate: float) -> None:
    """Move the chosen parameters, by id, out of their groups into copies of these with another learning rate."""
    for group in list(optimizer.param_groups):
        moved = [parameter for parameter in group["params"] if id(parameter) in chosen]
        if moved:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
            optimizer.add_param_group({**group, "params": moved, "lr": rate})


def _projector_anchor(model: nn.Module) -> torch.Tensor:
    """Return a zero that depends on the projector, so that every device has gradients for it."""
    parts = [
        parameter.sum()
        for name, parameter in model.named_parameters()
        if "projector" in name and parameter.requires_grad
    ]
    return 0.0 * torch.stack(parts).sum() if parts else torch.zeros(())


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


def seal(folder: Path) -> None:
    """Write the hashes of a Trainer checkpoint's files last, so that a half-written one is never resumed."""
    hashes = {file.name: _sha256(file) for file in sorted(folder.iterdir()) if file.is_file()}
    (folder / _SEAL).write_text(json.dumps(hashes), encoding="utf-8")


def last_sealed(folder: Path) -> Path | None:
    """Return the newest Trainer checkpoint of a stage whose files match its seal."""
    steps = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((path for path in steps if is_sealed(path)), None)


def is_sealed(folder: Path) -> bool:
    """Whether a Trainer checkpoint's files match its seal."""
    try:
        hashes = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
        return bool(hashes) and all(_sha256(folder / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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

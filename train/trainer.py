"""transformers' Trainer with the packed loss, small checkpoints, and weights that processes may share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedDataParallelKwargs
from safetensors.torch import save_file
from torch import nn
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME

from vlm_backbones.errors import ConfigError
from vlm_backbones.train.loss import FusedHead
from vlm_backbones.train.processes import processes, sharding
from vlm_backbones.train.trainer_checkpoints import load_shards, save_shards, seal
from vlm_backbones.train.weights import load_trainable, trainable_state

__all__ = ["TRAINABLE_FILE", "BackboneTrainer", "NotFiniteError"]

TRAINABLE_FILE = "trainable.safetensors"
_SHARDS = "shards"


class NotFiniteError(Exception):
    """Training ran away: at which step, and on which examples (their indices) where they are known."""

    def __init__(self, what: str, step: int, examples: Sequence[int] = ()) -> None:
        super().__init__(what)
        self.step, self.examples = step, tuple(examples)


class BackboneTrainer(Trainer):
    """Trainer over micro-batches that are collated already; each item of the dataset is one micro-batch."""

    def __init__(self, *args: Any, projector_learning_rate: float | None = None, **kwargs: Any) -> None:
        layers = _decoder_layers(kwargs["model"])
        self._layers, self._layer_count = sorted({type(layer).__name__ for layer in layers}), len(layers)
        self._fused_head = next((part for part in kwargs["model"].modules() if isinstance(part, FusedHead)), None)
        super().__init__(*args, **kwargs)
        self.loss_is_scaled_for_ga = True
        self._projector_learning_rate = projector_learning_rate

    def create_accelerator_and_postprocess(self) -> None:
        """Join the processes again, whom TrainingArguments made strangers, then as Trainer does."""
        processes()
        super().create_accelerator_and_postprocess()

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        built: dict[str, Any] = super()._build_accelerator_args(**kwargs)
        for handler in built["kwargs_handlers"]:
            if isinstance(handler, DistributedDataParallelKwargs):
                handler.gradient_as_bucket_view = True  # DDP would hold every gradient twice
        if sharding() == "fsdp2":
            built["fsdp_plugin"] = _build_fsdp_plugin(self._layers, in_bf16=bool(self.args.bf16))
        return built

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Keep buffers (rotary frequencies) in float32, which DeepSpeed would round with the weights."""
        buffers = {name: buffer.clone() for name, buffer in self._unwrapped().named_buffers()}
        prepare: Any = super()._prepare_for_training
        prepared = prepare(*args, **kwargs)
        for name, buffer in self._unwrapped().named_buffers():
            buffer.data = buffers[name].to(buffer.device)
        return prepared

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
        calls = inputs["layout"].calls
        calls.count = 0
        if self._fused_head is not None:
            self._fused_head.targets = inputs["labels"]
        outputs = model(
            input_ids=inputs["input_ids"],
            position_ids=inputs["position_ids"],
            pixel_values=inputs.get("pixel_values"),
            logits_to_keep=inputs["predict_at"],
            layout=inputs["layout"],
            anchor=inputs.get("pixel_values") is None,
            use_cache=False,
        )
        self._check_layout(calls.count)
        if self._fused_head is not None:
            total = outputs.logits.float()
        else:
            logits = outputs.logits[0].float()  # (supervised, vocabulary)
            losses = nn.functional.cross_entropy(logits, inputs["labels"], reduction="none")
            total = (losses * inputs["weights"]).sum()
        loss = total / (num_items_in_batch or inputs["weight_sum"])
        if not torch.isfinite(loss):
            raise NotFiniteError(f"the loss is {loss.item()}", self.state.global_step + 1, inputs["examples"])
        loss = loss * self.accelerator.num_processes  # gradients are averaged over devices
        return (loss, outputs) if return_outputs else loss

    def _check_layout(self, calls: int) -> None:
        """Refuse an LLM whose layers are not all given the layout: its turns would read each other's answers."""
        if calls != self._layer_count:
            raise ConfigError(
                f"{calls} of the LLM's {self._layer_count} layers ({', '.join(self._layers)}) attend by the layout of "
                "packed turns, so the others would read one answer from another. This kind of LLM cannot be trained "
                "here: choose another backbone."
            )

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
        state = trainable_state(self._unwrapped())
        if not all(torch.isfinite(value).all() for value in state.values()):
            raise NotFiniteError("the weights are not finite", self.state.global_step)
        save_file(state, folder / TRAINABLE_FILE)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights, unless they are shared: then they are saved with their moments, each process its own."""
        if sharding() == "none":
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if sharding() != "fsdp2":
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_shards(self.model, self.optimizer, Path(output_dir) / _SHARDS)
        schedule: Any = self.lr_scheduler
        if self.args.should_save:
            torch.save(schedule.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if sharding() == "none":
            load_trainable(model or self._unwrapped(), Path(resume_from_checkpoint) / TRAINABLE_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if sharding() != "fsdp2" or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_shards(self.model, self.optimizer, Path(checkpoint) / _SHARDS)
        schedule: Any = self.lr_scheduler
        schedule.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        processes().wait_for_everyone()  # each writes files of its own
        if self.args.should_save:
            seal(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}")


def _decoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the language model's layers: what is gathered, used and given up at a time."""
    names = [name for name, _ in model.named_modules() if name.endswith("language_model.layers")]
    layers: Any = model.get_submodule(names[0])
    return list(layers)


def _build_fsdp_plugin(layers: list[str], *, in_bf16: bool) -> Any:
    """Return how weights are shared; the rest stands in accelerate's configuration."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    # gradients are summed over processes in float32, as without sharing
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if in_bf16 else None
    return FullyShardedDataParallelPlugin(mixed_precision_policy=policy, transformer_cls_names_to_wrap=layers)


def _give_own_rate(optimizer: torch.optim.Optimizer, chosen: set[int], rate: float) -> None:
    """Move the chosen parameters, by id, out of their groups into copies of these with another learning rate."""
    for group in list(optimizer.param_groups):
        moved = [parameter for parameter in group["params"] if id(parameter) in chosen]
        if moved:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
            optimizer.add_param_group({**group, "params": moved, "lr": rate})

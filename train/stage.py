"""One stage of training: what is trainable, the Trainer's arguments, resume, and the stage's result on disk."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PrinterCallback, TrainingArguments

from vlm_backbones.cache import atomic_write_text, staged_path
from vlm_backbones.data.packed_attention import use_packed_attention
from vlm_backbones.errors import ConfigError
from vlm_backbones.hashes import file_sha256
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.train.callbacks import RunCallback, StopOnSigterm
from vlm_backbones.train.dataset import MicroBatches, StageData, first, parameter_dtype
from vlm_backbones.train.fast_llama import use_fast_layers
from vlm_backbones.train.features import Features
from vlm_backbones.train.lora import add_lora
from vlm_backbones.train.loss import fuse_head, has_fused_loss
from vlm_backbones.train.processes import found_by_main, processes, sharding
from vlm_backbones.train.projector_hooks import add_projector_hooks
from vlm_backbones.train.quantization import quantize_layers
from vlm_backbones.train.trainer import TRAINABLE_FILE, BackboneTrainer, NotFiniteError
from vlm_backbones.train.trainer_checkpoints import is_sealed, last_sealed
from vlm_backbones.train.weights import (
    held_bytes,
    load_trainable,
    lower_frozen_layers,
    take_back,
    trainable_state,
    working_copy,
)
from vlm_backbones.vlm.products import speed_linear_layers

_SAVES = 8
"""Trainer checkpoints over a stage; a kill loses at most this share of it."""


@dataclass(frozen=True)
class Stage:
    """A stage as it is about to run."""

    name: str
    recipe: StageRecipe
    data: StageData
    features: Features
    run_dir: Path
    fingerprint: str
    seed: int
    report_to: list[str]
    swept_rate: float | None = None
    """The rate of the study's sweep that this stage is trained at; None where it is the recipe's."""

    @property
    def folder(self) -> Path:
        """Where the stage keeps its Trainer checkpoints and its result."""
        return self.run_dir / self.name


@dataclass(frozen=True)
class Measured:
    """What was measured while a stage trained, kept in its stage.json."""

    held_bytes: int | None
    """Of weights, gradients and moments that a process held; None where DeepSpeed has them in its own buffers."""
    data_wait_share: float | None
    """Of the seconds in the step loop since its last start, those that the main process waited for a micro-batch; None
    where a version that did not measure it trained the stage."""


def run_stage(stage: Stage, model: Any) -> Measured:
    """Train one stage of the model, or load the stage's result where it is finished.

    Of several processes the main one has the trained weights afterwards; it hands them on when the next stage starts.
    """
    choose_trainable(model, stage.recipe)
    if found_by_main(lambda: _is_finished(stage)):
        if processes().is_main_process:
            load_trainable(model, stage.folder / TRAINABLE_FILE)
        done = found_by_main(lambda: _read_result(stage))
        return Measured(done.get("held_bytes"), done.get("data_wait_share"))
    if processes().is_main_process:
        _forget_other_content(stage)
    processes().wait_for_everyone()
    trained = _build_trained(stage, model)
    measured = _train(stage, trained)
    _take_back(stage, trained, model)
    if processes().is_main_process:
        _finish(stage, model, measured)
    processes().wait_for_everyone()
    return measured


def _build_trained(stage: Stage, model: Any) -> Any:
    """Return the copy of the model that is trained: features in the tower's place, packed attention, adapters."""
    recipe = stage.recipe
    trained = working_copy(model, {model.model.vision_tower: stage.features.tower()})
    use_packed_attention(trained.model.language_model)
    add_projector_hooks(trained)
    if recipe.quantization is not None:
        quantize_layers(trained.model.language_model, parameter_dtype(recipe.precision))
    if recipe.lora is not None:
        trained = _adapt(trained, recipe, quantized=recipe.quantization is not None)
    if recipe.precision == "float32" and sharding() == "none":
        if recipe.lora is None:
            use_fast_layers(trained.model.language_model)
        speed_linear_layers(trained)
    lower_frozen_layers(trained, parameter_dtype(recipe.precision))
    if has_fused_loss(recipe):
        fuse_head(trained)
    return trained


def _adapt(model: Any, recipe: StageRecipe, *, quantized: bool) -> Any:
    """Return the model with its recipe's adapters, which are trained in the place of the LLM."""
    assert recipe.lora is not None
    adapted = add_lora(model, recipe.lora, quantized=quantized)
    for name, parameter in adapted.named_parameters():
        if "multi_modal_projector" in name:
            parameter.requires_grad_("projector" in recipe.trainable)
    return adapted


def _take_back(stage: Stage, trained: Any, model: Any) -> None:
    """Take what was learned into the model; adapters are added to its weights in their full precision."""
    if stage.recipe.lora is None:
        take_back(trained, model)
        return
    adapted = _adapt(model, stage.recipe, quantized=False)
    take_back(trained, adapted)
    if processes().is_main_process:
        adapted.merge_and_unload()
    else:
        adapted.unload()


def choose_trainable(model: Any, recipe: StageRecipe) -> None:
    """Freeze all but the recipe's parts; the vision tower is always frozen."""
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_("projector" in recipe.trainable)
    model.model.language_model.requires_grad_("llm" in recipe.trainable)
    model.lm_head.requires_grad_("llm" in recipe.trainable)


def _batches(stage: Stage) -> MicroBatches:
    return MicroBatches(stage.data, stage.features, stage.recipe, world_size=processes().num_processes)


def micro_batch_size(stage: Stage) -> int:
    """Return the examples of a forward pass of one device."""
    return stage.recipe.batch_size // _batches(stage).parts


def _train(stage: Stage, model: Any) -> Measured:
    world_size, batches = processes().num_processes, _batches(stage)
    sizes = [sum(len(stage.data.packed[index].ids) for index in step) for step in stage.data.order]
    trainer = BackboneTrainer(
        model=model,
        args=build_arguments(stage, accumulation=batches.parts // world_size),
        train_dataset=batches,
        data_collator=first,
        callbacks=[RunCallback(stage.run_dir, stage.name, sizes), StopOnSigterm()],
        projector_learning_rate=stage.recipe.projector_learning_rate,
    )
    trainer.remove_callback(PrinterCallback)  # metrics.jsonl and progress.json say it all
    resume = found_by_main(lambda: last_sealed(stage.folder))
    model.train()
    start = time.perf_counter()
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except NotFiniteError as error:
        raise ConfigError(_explain(stage, error)) from None
    waited = batches.waited_seconds / (time.perf_counter() - start)
    held = None if sharding().startswith("zero") else held_bytes(model, trainer.optimizer)
    return Measured(held, round(waited, 4))


def _explain(stage: Stage, error: NotFiniteError) -> str:
    """Say at which step, on which examples, and which checkpoint is still good."""
    good = last_sealed(stage.folder, before=error.step - 1)  # a step's loss is of the weights that the last one left
    rows = ", ".join(stage.data.places[index] for index in error.examples)
    remedy = "lower the recipe's learning_rate"
    if stage.swept_rate is not None:
        remedy = f"take {stage.swept_rate:g} out of the study's sweep.learning_rate"
    return (
        f"{error} at step {error.step} of {stage.name}{f', on {rows}' if rows else ''}. "
        f"Last good checkpoint: {good or 'none, it was too early'}. Look at these rows, or {remedy}."
    )


def build_arguments(stage: Stage, *, accumulation: int) -> TrainingArguments:
    """Return the Trainer's arguments of a stage."""
    recipe, steps = stage.recipe, len(stage.data.order)
    warmup = recipe.warmup_steps if recipe.warmup_steps is not None else math.ceil(recipe.warmup_ratio * steps)
    schedule: dict[str, Any] = {"lr_scheduler_type": recipe.schedule}
    if recipe.schedule == "cosine":
        rate = {"min_lr_rate": recipe.min_lr_ratio}
        schedule = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": rate}
    elif recipe.schedule == "constant":
        schedule = {"lr_scheduler_type": "constant_with_warmup"}
    memory: dict[str, Any] = {}
    if recipe.gradient_checkpointing:
        memory = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    return TrainingArguments(
        output_dir=str(stage.folder),
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulation,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        adam_beta1=recipe.adam_beta1,
        adam_beta2=recipe.adam_beta2,
        max_grad_norm=recipe.max_grad_norm,
        warmup_steps=warmup,
        optim="adamw_torch_fused",
        bf16=recipe.precision == "bf16",
        tf32=True if recipe.precision == "bf16" and _has_tf32() else None,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        logging_steps=max(1, min(10, steps // 20)),
        logging_nan_inf_filter=False,
        save_steps=max(1, -(-steps // _SAVES)),
        save_total_limit=2,
        seed=stage.seed,
        data_seed=recipe.data_seed,
        report_to=stage.report_to or "none",
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        # summing a step's gradients before they are shared would hold all of them on every GPU
        accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": sharding() != "none"}},
        **schedule,
        **memory,
    )


def _has_tf32() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def _is_finished(stage: Stage) -> bool:
    done, result = _read_result(stage), stage.folder / TRAINABLE_FILE
    if done.get("fingerprint") != stage.fingerprint or not result.is_file():
        return False
    is_whole = "sha256" not in done or done["sha256"] == file_sha256(result)
    if not is_whole:
        print(f"{result} is damaged (its sha256 is not the one in stage.json): the stage is trained again")
    return is_whole


def _read_result(stage: Stage) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads((stage.folder / "stage.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return result


def _forget_other_content(stage: Stage) -> None:
    """Remove Trainer checkpoints of another configuration, and half-written ones; the others are resumed."""
    marker = stage.folder / "fingerprint"
    if stage.folder.exists() and (not marker.is_file() or marker.read_text(encoding="utf-8") != stage.fingerprint):
        shutil.rmtree(stage.folder)
    for folder in stage.folder.glob("checkpoint-*"):
        if not is_sealed(folder):
            shutil.rmtree(folder)
    atomic_write_text(marker, stage.fingerprint)


def _finish(stage: Stage, model: Any, measured: Measured) -> None:
    """Keep what the stage trained, then drop its Trainer checkpoints."""
    choose_trainable(model, stage.recipe)
    with staged_path(stage.folder / TRAINABLE_FILE) as staged:
        save_file(trainable_state(model), staged)
    digest = file_sha256(stage.folder / TRAINABLE_FILE)
    result = {"fingerprint": stage.fingerprint, **asdict(measured), "sha256": digest}
    atomic_write_text(stage.folder / "stage.json", json.dumps(result))
    for folder in stage.folder.glob("checkpoint-*"):
        shutil.rmtree(folder)

"""TRL's SFTTrainer as the peer of `_finetune.py`: what it trains, on what, and that it sees what ours sees."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

__all__ = ["refuse_other_tokens", "rows", "train"]


def train(setting: Any, recipe: Any) -> None:
    """Train with TRL's SFTTrainer, which pads; loader processes prepare its pictures, as LLaVA's scripts have it."""
    from trl import SFTConfig, SFTTrainer

    from vlm_backbones.train.loss import has_fused_loss

    with tempfile.TemporaryDirectory(dir=setting.folder) as run:
        settings = SFTConfig(
            output_dir=run, max_steps=recipe.steps, per_device_train_batch_size=recipe.micro_batch_size,
            gradient_accumulation_steps=recipe.batch_size // recipe.micro_batch_size, optim="adamw_torch_fused",
            learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay, lr_scheduler_type=recipe.schedule,
            max_length=recipe.max_length_tokens, assistant_only_loss=True, bf16=recipe.precision == "bf16",
            gradient_checkpointing=bool(recipe.gradient_checkpointing), train_sampling_strategy="sequential",
            dataloader_num_workers=setting.loader_workers, use_cpu=not torch.cuda.is_available(), report_to="none",
            disable_tqdm=True, seed=0, use_liger_kernel=has_fused_loss(recipe),
        )  # fmt: skip
        SFTTrainer(
            model=build_model(setting, recipe), args=settings, train_dataset=setting.rows,
            processing_class=setting.processor,
        ).train()  # fmt: skip


def build_model(setting: Any, recipe: Any) -> Any:
    """Return the same weights with the same parts trained; what is frozen is held in the products' type."""
    from vlm_backbones.train.dataset import parameter_dtype
    from vlm_backbones.train.lora import add_lora
    from vlm_backbones.train.stage import choose_trainable
    from vlm_backbones.train.weights import working_copy

    choose_trainable(setting.model, recipe)
    model = working_copy(setting.model)
    if recipe.lora is not None:
        model = add_lora(model, recipe.lora)
        model.get_base_model().model.multi_modal_projector.requires_grad_(True)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(parameter_dtype(recipe.precision))
    return model


def rows(examples: Sequence[Any]) -> Any:
    """Return conversations as TRL takes them: messages and pictures."""
    from datasets import Dataset, Features, Image, List, Value

    found = [
        {
            "messages": [
                {"role": role, "content": text}
                for turn in example.turns
                for role, text in (("user", turn.question), ("assistant", turn.answer))
            ],
            "images": [{"bytes": example.image.read()}] if example.image else [],
        }
        for example in examples
    ]
    messages = List({"role": Value("string"), "content": Value("string")})
    return Dataset.from_list(found, features=Features({"messages": messages, "images": List(Image())}))


def refuse_other_tokens(setting: Any) -> None:
    """Stop unless TRL's collator gives every example the tokens, and the supervised ones, that we train on."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    size = setting.recipe.micro_batch_size
    collator = DataCollatorForVisionLanguageModeling(
        setting.processor, max_length=setting.recipe.max_length_tokens, assistant_only_loss=True
    )
    order = [index for step in setting.data.order for index in step]
    for start in range(0, len(order), size):
        batch = collator([setting.rows[place] for place in range(start, start + size)])
        for row, index in enumerate(order[start : start + size]):
            packed, labels = setting.data.packed[index], batch["labels"][row]
            ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            places = (labels != -100).nonzero()[:, 0]
            same = ids.tolist() == packed.ids.tolist() and labels[places].tolist() == packed.targets.tolist()
            if not same or (places - 1).tolist() != packed.predict_at.tolist():
                raise SystemExit(f"{setting.data.places[index]}: this TRL ({version('trl')}) trains on other tokens")

"""A stage's micro-batches as a dataset: item i is the i-th micro-batch, collated while the one before is trained on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from vlm_backbones.data.chat_format import get_chat_template
from vlm_backbones.data.collation import collate
from vlm_backbones.data.conversations import Example
from vlm_backbones.data.order import order_examples
from vlm_backbones.data.packing import PackedExample, pack_examples
from vlm_backbones.errors import ConfigError
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.train.features import Features

_FLAT_TOKENS = 16_384
"""A micro-batch larger than this is split over gradient accumulation, to bound memory."""


@dataclass(frozen=True)
class StageData:
    """Everything a stage reads, tokenised once; by index of the example, only those that its steps use."""

    packed: dict[int, PackedExample]
    handles: dict[int, Any]
    order: list[list[int]]
    places: dict[int, str]
    """File and row, for messages."""

    @property
    def truncated(self) -> int:
        """Turns that were cut at the longest length."""
        return sum(example.truncated for example in self.packed.values())


def build_stage_data(
    examples: Sequence[Example], features: Features, recipe: StageRecipe, model: Any, processor: Any
) -> StageData:
    """Tokenise the examples for one backbone and fix the order of its steps, which no tokenizer influences."""
    context = int(model.config.text_config.max_position_embeddings)
    order = order_examples(examples, recipe)
    used = {index: examples[index] for index in sorted({index for step in order for index in step})}
    template = processor.chat_template
    if recipe.chat_format is not None:
        template = get_chat_template(recipe.chat_format, processor.tokenizer)
    packed = pack_examples(
        list(used.values()),
        processor.tokenizer,
        template,
        image_token_id=model.config.image_token_id,
        image_tokens=model.config.image_seq_length,
        max_length_tokens=min(recipe.max_length_tokens, context),
    )
    handles = {index: features.handle(example.image) for index, example in used.items() if example.image}
    places = {index: example.turns[0].place for index, example in used.items()}
    return StageData(dict(zip(used, packed, strict=True)), handles, order, places)


class MicroBatches(Dataset[dict[str, Any]]):
    """Micro-batches in the order of the steps; `parts` of them make a step.

    While a step runs, one thread prepares the next: pictures are opened and states read behind the model's work. What
    fails there is raised where its micro-batch is asked for.
    """

    def __init__(self, data: StageData, features: Features, recipe: StageRecipe, *, world_size: int = 1) -> None:
        self._data, self._features, self._weighting = data, features, recipe.answer_weighting
        self.parts = self._count_parts(recipe, world_size)
        self.world_size = world_size
        self.waited_seconds = 0.0
        """What was spent in asking: the step loop stood still meanwhile."""
        self._thread = ThreadPoolExecutor(1, "next-batches")
        self._ahead: dict[int, Future[dict[str, Any]]] = {}

    def _count_parts(self, recipe: StageRecipe, world_size: int) -> int:
        """Return the fewest equal parts of a step that fit the devices and the memory bound."""
        size = recipe.batch_size
        if size % world_size:
            raise ConfigError(f"batch_size {size} cannot be divided over {world_size} devices.")
        if recipe.micro_batch_size is not None:
            parts = size // recipe.micro_batch_size
            if parts % world_size:
                raise ConfigError(
                    f"batch_size {size} has {parts} parts of micro_batch_size {recipe.micro_batch_size}, which cannot "
                    f"be shared by {world_size} devices: lower micro_batch_size to {size // world_size}."
                )
            return parts
        tokens = sum(len(example.ids) for example in self._data.packed.values()) / len(self._data.packed)
        for parts in range(world_size, size + 1, world_size):
            if size % parts == 0 and size / parts * tokens <= _FLAT_TOKENS:
                return parts
        return size

    def __len__(self) -> int:
        return len(self._data.order) * self.parts

    def __getitem__(self, item: int) -> dict[str, Any]:
        start = time.perf_counter()
        # one of several processes asks for every `world_size`-th, a whole step of its own at a time
        last = min(item + self.parts, len(self) - 1)
        for number in range(item, last + 1, self.world_size):
            if number not in self._ahead:
                self._ahead[number] = self._thread.submit(self._collate, number)
        batch = self._ahead.pop(item).result()
        self.waited_seconds += time.perf_counter() - start
        return batch

    def _collate(self, item: int) -> dict[str, Any]:
        step, part = divmod(item, self.parts)
        indices = self._data.order[step]
        size = len(indices) // self.parts
        chosen = indices[part * size : (part + 1) * size]
        batch = collate([self._data.packed[index] for index in chosen], weighting=self._weighting)
        handles = [self._data.handles[index] for index in chosen if self._data.packed[index].has_image]
        if handles:
            batch["pixel_values"] = self._features.gather(handles)
        batch["weight_sum"], batch["examples"] = batch["weights"].sum(), chosen
        return batch


def first(batch: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate function of a loader whose items are batches already."""
    return batch[0]


def parameter_dtype(precision: str) -> torch.dtype:
    """Return the type in which weights are trained."""
    return torch.float32 if precision == "float32" else torch.bfloat16

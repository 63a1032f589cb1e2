"""The certificate's facts in words, each with its unit."""

from __future__ import annotations

__all__ = ["fact_name", "fact_value"]

import json
from typing import Any

_HASH_SHOWN = 12
_LONGEST = 120
_NAMES = {
    "vision_tower": "vision tower, weights",
    "examples_in_order": "training examples in their order",
    "examples": "training examples, count",
    "images": "training images",
    "recipe": "recipe: every setting of the training",
    "prompts": "wording of the prompts",
    "code": "program code",
    "image_tokens": "tokens that an image takes",
    "image_preprocessing": "how images are prepared",
    "batches_grouped_by": "batches are grouped by",
    "files": "the backbone's own files",
    "context_tokens": "longest context, tokens",
    "digits": "pieces that a number is split into",
    "trained_parameters": "trained parameters",
    "chat_template": "chat template",
    "answer_ends": "tokens that end an answer",
    "dropout": "dropout as published; training takes none",
    "attention_window": "tokens that a layer sees back, where not all",
    "rotary_positions": "rotary positions",
    "unplaced_weights": "weights without a place in the model",
    "lost_questions": "rows with a question that the tokenizer changes",
    "untrained_tokens": "tokens that the backbone never learnt",
    "untold_tokens": "added tokens of which it cannot be told whether they were trained",
    "optimizer_steps": "optimizer steps",
    "examples_seen": "examples seen over all steps",
    "supervised_tokens": "supervised tokens in the data",
    "supervised_tokens_seen": "supervised tokens seen over all steps",
    "tokens_an_answer": "supervised tokens an answer, mean",
    "tokens_an_example": "tokens an example, mean: the image and all its questions with answers",
    "image_tokens_seen": "image tokens seen over all steps",
    "truncated_answers": "answers cut at the longest length",
    "truncated_rows": "which answers are cut, and where",
    "dropped_examples": "examples without a supervised token",
    "longest_tokens": "longest single question, tokens: with its image and answer",
}


def fact_name(path: str) -> str:
    """Words for a fact, as `finetune longest_tokens` or `digits 36.12`; an unknown one keeps its own."""
    first, _, rest = path.partition(" ")
    if first in _NAMES:
        return f"{_NAMES[first]}: {rest}" if rest else _NAMES[first]
    before, _, last = path.rpartition(" ")
    if last in _NAMES and before:
        return f"{before}, {_NAMES[last]}"
    return path.replace("_", " ")


def fact_value(value: Any) -> str:
    """A number with its thousands, the pieces of a number as they are, the first letters of a hash, or short text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " \u00b7 ".join(map(str, value))[:_LONGEST]
    if value is None or value in ({}, ""):
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) >= 32 and all(letter in "0123456789abcdef" for letter in text):
        return f"fingerprint {text[:_HASH_SHOWN]}"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."

"""The record of one answer: keys that join runs, and what the analysis needs beside the text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from vlm_backbones.pictures import to_rgb

__all__ = ["Record", "doc_key", "image_key"]


def image_key(images: Sequence[Image]) -> str | None:
    """Return the sha256 over size and RGB of a document's images in order; None without images."""
    if not images:
        return None
    digest = hashlib.sha256()
    for image in images:
        rgb = to_rgb(image)
        digest.update(f"{rgb.width}x{rgb.height}:".encode())
        digest.update(rgb.tobytes())
    return digest.hexdigest()


def doc_key(task: str, context: str, key: str | None) -> str:
    """Return the sha256 of (task, unperturbed context before any chat format, image key): the same in every run."""
    return hashlib.sha256(json.dumps([task, context, key], ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """One answer with what is logged beside it.

    Attributes
    ----------
    logprob
        Natural logarithm, summed over the answer's tokens with the end of turn.
    token_count
        Tokens of the answer, the end of turn included.
    truncated
        Whether the answer ended at the token limit.
    option_logprobs
        Option -> log-probability of the option as the whole answer, end of turn included; None where there are none.
    """

    text: str
    input_tokens: int
    token_count: int
    logprob: float
    truncated: bool
    option_logprobs: Mapping[str, float] | None
    doc_key: str
    image_key: str | None
    checkpoint: str
    condition: str

    def as_response(self) -> tuple[str, dict[str, Any]]:
        """Return what lmms-eval takes: extras travel under `reasoning_tokens`, the one field that it passes through."""
        extras = {
            "doc_key": self.doc_key,
            "image_key": self.image_key,
            "cluster": self.image_key or self.doc_key,
            "logprob": self.logprob,
            "token_count": self.token_count,
            "truncated": self.truncated,
            "option_logprobs": None if self.option_logprobs is None else dict(self.option_logprobs),
            "checkpoint": self.checkpoint,
            "condition": self.condition,
        }
        counts = {"input_tokens": self.input_tokens, "output_tokens": self.token_count, "reasoning_tokens": extras}
        return self.text, counts

"""Option log-probabilities of samples as padded matrices."""

from __future__ import annotations

__all__ = ["Options", "fold", "option_logits", "option_matrix", "softmax"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Options:
    """Options of documents: log-probabilities, -inf beyond a document's own; -1 where no option is right."""

    logits: Floats  # (documents, options)
    right: Ints  # (documents,)
    count: Ints  # (documents,)
    answered: Ints  # (documents,)

    def where(self, keep: NDArray[np.bool_]) -> Options:
        """Return some of the documents."""
        return Options(self.logits[keep], self.right[keep], self.count[keep], self.answered[keep])


def fold(text: Any) -> str:
    """Case, outer blanks and a final period make no difference between an option and an answer."""
    return str(text).strip().rstrip(".").casefold()


def option_logits(part: pl.DataFrame, rows: Sequence[int]) -> tuple[Floats, Ints, Ints]:
    """Return log-probabilities (rows, options; -inf beyond), the right option's index (-1: none) and option counts.

    Columns are ordered by option text, so that two runs of one question line up.
    """
    listed = part["option_logprobs"].gather(list(rows)).to_list()
    targets = part["target"].gather(list(rows)).to_list()
    known = [
        sorted((fold(item["option"]), item["logprob"]) for item in options or () if item["logprob"] is not None)
        for options in listed
    ]
    width = max((len(options) for options in known), default=0) or 1
    logits = np.full((len(known), width), -np.inf)
    right = np.full(len(known), -1, dtype=np.int64)
    for index, (options, target) in enumerate(zip(known, targets, strict=True)):
        for place, (name, value) in enumerate(options):
            logits[index, place] = value
            if name == fold(target):
                right[index] = place
    return logits, right, np.array([len(options) for options in known], dtype=np.int64)


def option_matrix(part: pl.DataFrame, rows: Sequence[int]) -> tuple[Floats, Ints, Ints]:
    """As `option_logits`, with softmax probabilities: zero beyond a question's options, all zero without options."""
    logits, right, count = option_logits(part, rows)
    return softmax(logits, count), right, count


def softmax(logits: Floats, count: Ints, temperature: float = 1.0) -> Floats:
    """Row-wise softmax of logits / temperature; rows without options are all zero."""
    safe = np.where(count[:, None] > 0, logits, 0.0) / temperature
    weights = np.exp(safe - safe.max(axis=1, keepdims=True))
    return np.where(count[:, None] > 0, weights / weights.sum(axis=1, keepdims=True), 0.0)

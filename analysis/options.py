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
    taken = part[rows].select("option_logprobs", "target").with_row_index("row")
    listed = taken.explode("option_logprobs").unnest("option_logprobs").drop_nulls("logprob")
    known = listed.with_columns(_folded(listed["option"]), _folded(listed["target"])).sort("row", "option", "logprob")
    row = known["row"].to_numpy().astype(np.int64)
    count = np.bincount(row, minlength=taken.height)
    place = np.arange(row.size) - np.repeat(np.cumsum(count) - count, count)
    logits = np.full((taken.height, max(int(count.max(initial=0)), 1)), -np.inf)
    logits[row, place] = known["logprob"].to_numpy()
    right = np.full(taken.height, -1, dtype=np.int64)
    hit = (known["option"] == known["target"]).to_numpy()
    right[row[hit]] = place[hit]
    return logits, right, count


def _folded(texts: pl.Series) -> pl.Series:
    """`fold` of a column, each distinct text once."""
    named = texts.cast(pl.String)
    distinct = named.unique()
    return named.replace_strict(distinct, pl.Series(map(fold, distinct), dtype=pl.String), return_dtype=pl.String)


def option_matrix(part: pl.DataFrame, rows: Sequence[int]) -> tuple[Floats, Ints, Ints]:
    """As `option_logits`, with softmax probabilities: zero beyond a question's options, all zero without options."""
    logits, right, count = option_logits(part, rows)
    return softmax(logits, count), right, count


def softmax(logits: Floats, count: Ints, temperature: float = 1.0) -> Floats:
    """Row-wise softmax of logits / temperature; rows without options are all zero."""
    safe = np.where(count[:, None] > 0, logits, 0.0) / temperature
    weights = np.exp(safe - safe.max(axis=1, keepdims=True))
    return np.where(count[:, None] > 0, weights / weights.sum(axis=1, keepdims=True), 0.0)

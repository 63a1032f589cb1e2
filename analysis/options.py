"""Option log-probabilities of samples as padded matrices."""

from __future__ import annotations

__all__ = ["Options", "fold", "folded", "option_logits", "option_matrix", "softmax"]

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
    """Options of documents: log-probabilities, -inf beyond a document's own; -1 where no option is right, or said."""

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


def option_logits(part: pl.DataFrame, rows: Sequence[int]) -> Options:
    """Log-probabilities of some rows; columns are ordered by option text, so that two runs of one question line up.

    An option whose log-probability is not finite has probability 0, where another one's is. `answered` is -1 where the
    parsed answer is none of the options.
    """
    taken = part.select("option_logprobs", "target", "parsed")[rows].with_row_index("row")
    listed = taken.explode("option_logprobs").unnest("option_logprobs")
    listed = listed.filter(pl.col("logprob").count().over("row") > 0).with_columns(pl.col("logprob").fill_null(-np.inf))
    texts = (folded(listed[name]) for name in ("option", "target", "parsed"))
    known = listed.with_columns(*texts).sort("row", "option", "logprob")
    row = known["row"].to_numpy().astype(np.int64)
    count = np.bincount(row, minlength=taken.height)
    place = np.arange(row.size) - np.repeat(np.cumsum(count) - count, count)
    logits = np.full((taken.height, max(int(count.max(initial=0)), 1)), -np.inf)
    logits[row, place] = known["logprob"].to_numpy()
    right, answered = np.full((2, taken.height), -1, dtype=np.int64)
    for found, text in ((right, "target"), (answered, "parsed")):
        hit = np.flatnonzero((known["option"] == known[text]).fill_null(False).to_numpy())[::-1]  # the first stays
        found[row[hit]] = place[hit]
    return Options(logits, right, count, answered)


def folded(texts: pl.Series) -> pl.Series:
    """`fold` of a column, each distinct text once."""
    named = texts.cast(pl.String)
    distinct = named.drop_nulls().unique()
    folded = pl.Series(map(fold, distinct), dtype=pl.String)
    return named.replace_strict(distinct, folded, default=None, return_dtype=pl.String)


def option_matrix(part: pl.DataFrame, rows: Sequence[int]) -> tuple[Floats, Ints, Ints]:
    """Softmax probabilities (rows, options), the right option and the number of options of each row.

    Zero beyond a question's options, all zero without options.
    """
    of = option_logits(part, rows)
    return softmax(of.logits, of.count), of.right, of.count


def softmax(logits: Floats, count: Ints, temperature: float = 1.0) -> Floats:
    """Row-wise softmax of logits / temperature; rows without options are all zero."""
    safe = np.where(count[:, None] > 0, logits, 0.0) / temperature
    weights = np.exp(safe - safe.max(axis=1, keepdims=True))
    return np.where(count[:, None] > 0, weights / weights.sum(axis=1, keepdims=True), 0.0)

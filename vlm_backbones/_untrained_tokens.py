"""Tokens that training uses and the backbone never learnt: rows that were added to its embedding, by us or before.

Such a row is learnt from the study's examples alone, by the one backbone whose tokenizer has the token. A row that was
drawn at random as wide as the trained ones cannot always be told from them: then the certificate says so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlm_backbones._embedding_rows import FloatArray, Rows, find_tables, why_unseen
from vlm_backbones.backbones import Backbone

__all__ = ["AddedTokens", "differs_by_chance", "untrained_tokens"]

_COMMON, _COMMON_SHAPE = 0.05, 0.001
"""Where more of the other rows lie at the mean, or look like a draw, trained rows do so too: nothing is said of any.
Frequent and rare words may have shapes of their own, so of a shape hardly one may."""
_NEAR = 0.1
"""Of the median distance from the mean: no two trained rows are so near each other, and none so near the mean."""
_SAME = 0.02
"""Of that: equal but for float32's last digits."""
_SMALL, _LARGE = 0.6, 1.5
_FEW_ROWS, _MARGIN = 16, 0.05
_SHAPE_COLUMNS, _SHAPE_ROWS = 256, 8192
_RANDOM, _ODD_SIZE = "is random", "is far smaller or larger than every other"
_UNTOLD = "added to the vocabulary; whether it was trained cannot be told from its row"

BoolArray = NDArray[np.bool_]


class AddedTokens(NamedTuple):
    """What is seen of the added tokens of a training text, by token."""

    untrained: dict[str, str]
    """Never trained, and how that is seen."""
    untold: dict[str, str]
    """Added beyond the tokenizer's own vocabulary, and why nothing is known of their training."""


def differs_by_chance(why: str) -> bool:
    """Return whether a row that is untrained in this way is another one in each backbone."""
    return why.endswith((_RANDOM, _ODD_SIZE))


def untrained_tokens(row: Backbone, tokenizer: Any, config: Any, used: Collection[int]) -> AddedTokens:
    """Look at the rows of the added tokens among `used`, of the input embedding and of an output head of its own.

    Weights are read where they lie in a folder or in the hub's cache; elsewhere only the vocabulary's size tells.
    """
    size, base = int(config.vocab_size), int(tokenizer.vocab_size)
    every = set(map(int, getattr(tokenizer, "added_tokens_decoder", {})))
    added = sorted(every & set(used))
    known = [token for token in added if token < size]
    found = {token: "not among the backbone's own: its row starts at the mean" for token in added if token >= size}
    tables = find_tables(row, config) if known else {}
    for word, table in tables.items():
        there = [token for token in known if token < table.shape[0]]
        strangers = {*there, *(token for token in every if token >= base)}
        reasons = _Reasons(table, there, strangers, float(getattr(config, "initializer_range", 0.0) or 0.0))
        for token in there:
            why = reasons.of(token, beyond=token >= base)
            if why and token not in found:
                found[token] = f"its {word} {why}"
    untold = {token: _UNTOLD if tables else why_unseen(row) for token in known if token >= base and token not in found}
    names = {token: str(tokenizer.convert_ids_to_tokens(token)) for token in added}
    return AddedTokens({names[key]: found[key] for key in sorted(found)}, {names[key]: untold[key] for key in untold})


class _Reasons:
    """Compares some rows of a table with all others.

    Parameters
    ----------
    asked
        The rows to compare.
    strangers
        All rows that are no measure for others: the asked ones, and what was added beyond the vocabulary.
    """

    def __init__(self, table: Rows, asked: Sequence[int], strangers: Collection[int], initial_std: float) -> None:
        self._std, self._asked = initial_std, {token: index for index, token in enumerate(asked)}
        others = np.ones(table.shape[0], dtype=bool)
        others[[token for token in strangers if token < len(others)]] = False
        others |= not others.any()
        self._rows: FloatArray = np.concatenate([table.read(slice(token, token + 1)) for token in asked])
        total, draws, norms = np.zeros(table.shape[1]), list[BoolArray](), list[FloatArray]()
        for start, block in table.blocks():
            chosen = block[others[start : start + len(block)]]
            total += chosen.sum(0, dtype=np.float64)
            draws.append(_are_draws(chosen, initial_std))
            norms.append(np.linalg.norm(chosen, axis=1))
        self._mean = (total / others.sum()).astype(np.float32)
        self._draws = float(np.concatenate(draws).mean())
        sizes = np.concatenate(norms)
        self._smallest, self._largest = float(sizes[sizes > 0].min(initial=np.inf)), float(sizes.max())
        self._measure_distances(table, others)
        self._shape = _Shape(table, others)

    def _measure_distances(self, table: Rows, others: BoolArray) -> None:
        distances = list[FloatArray]()
        asked, self._nearest = self._rows - self._mean, np.full(len(self._rows), np.inf)
        for start, block in table.blocks():
            chosen = block[others[start : start + len(block)]] - self._mean
            if not len(chosen):
                continue
            distances.append(np.linalg.norm(chosen, axis=1))
            apart = (chosen**2).sum(1)[:, None] + (asked**2).sum(1) - 2 * chosen @ asked.T  # (rows, asked), squared
            self._nearest = np.minimum(self._nearest, np.sqrt(np.maximum(apart.min(0), 0)))
        found = np.concatenate(distances)
        self._near = _NEAR * float(np.median(found))
        self._at_mean = float((found < self._near).mean())

    def of(self, token: int, *, beyond: bool) -> str | None:
        """Return how a row shows that nobody trained it; None where it does not.

        `beyond`: it was added to the vocabulary, so that it counts too if no row of the vocabulary is like it.
        """
        vector = self._rows[self._asked[token]]
        if not vector.any():
            return "is zero"
        if self._draws < _COMMON_SHAPE and bool(_are_draws(vector[None], self._std)[0]):
            return _RANDOM
        is_at_mean = np.linalg.norm(vector - self._mean) < self._near
        if is_at_mean and self._at_mean < _COMMON:
            return "is the mean of the others"
        nearest = self._nearest[self._asked[token]]
        if nearest < (_SAME if is_at_mean else 1) * self._near:
            return "is a copy of another"
        if not beyond:
            return None
        if self._shape.is_strange(vector):
            return _RANDOM
        norm = float(np.linalg.norm(vector))
        if norm < _SMALL * self._smallest or norm > _LARGE * self._largest:
            return _ODD_SIZE
        return None


def _are_draws(rows: FloatArray, std: float) -> BoolArray:
    """Whether each row is a draw of the normal distribution that untrained rows come from: mean, spread, tails."""
    if std <= 0:
        return np.zeros(len(rows), dtype=bool)
    n, z = rows.shape[1], rows.astype(np.float64) / std
    mean, spread, tails = z.mean(1), z.std(1), (z**4).mean(1) - 3
    found: BoolArray = (
        (np.abs(mean) < 3 / n**0.5) & (np.abs(spread - 1) < 3 / (2 * n) ** 0.5) & (np.abs(tails) < 4 * (24 / n) ** 0.5)
    )
    return found


class _Shape:
    """Whether independent numbers of one spread, around zero or the mean, describe a row better than the others do.

    Trained rows share directions: their covariance is far from a sphere, and so is their mean from zero. Each half of a
    sample is judged by the other half's covariance; every row may have a size of its own. A row is strange where it
    looks more independent than all but one in a thousand of them, by a margin.
    """

    def __init__(self, table: Rows, others: BoolArray) -> None:
        step = max(1, -(-int(others.sum()) // _SHAPE_ROWS))
        sample = np.zeros_like(others)
        sample[np.flatnonzero(others)[::step]] = True
        width = min(_SHAPE_COLUMNS, table.shape[1], int(sample.sum()) // 8)
        self._columns = np.unique(np.linspace(0, table.shape[1] - 1, max(width, 1)).astype(int))
        self._can_tell = width >= _FEW_ROWS
        if not self._can_tell:
            return
        blocks = [block[sample[start : start + len(block)]][:, self._columns] for start, block in table.blocks()]
        rows = np.concatenate(blocks).astype(np.float64)
        self._fits = [_fit(rows[::2]), _fit(rows[1::2])]
        crossed = np.concatenate([_gain(rows[1::2], *self._fits[0]), _gain(rows[::2], *self._fits[1])])
        self._least = min(0.0, float(np.quantile(crossed, _COMMON_SHAPE))) - _MARGIN

    def is_strange(self, vector: FloatArray) -> bool:
        if not self._can_tell:
            return False
        chosen = vector[None, self._columns].astype(np.float64)
        return bool(np.mean([_gain(chosen, *fit) for fit in self._fits]) < self._least)


Fit = tuple[NDArray[np.float64], NDArray[np.float64]]


def _fit(rows: NDArray[np.float64]) -> Fit:
    """Return the mean, and what whitens by the covariance, shrunk a little towards a sphere."""
    covariance = np.cov(rows.T)
    width = len(covariance)
    factor = np.linalg.cholesky(covariance + np.eye(width) * (0.01 * np.trace(covariance) / width + 1e-30))
    return rows.mean(0), np.linalg.inv(factor)


def _gain(rows: NDArray[np.float64], mean: NDArray[np.float64], whitening: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, a row, the log-likelihood a number that the covariance gains over independence, its size left free."""
    tiny = 1e-300
    own = (((rows - mean) @ whitening.T) ** 2).mean(1)
    logs = [np.log(np.maximum((around**2).mean(1), tiny)) for around in (rows, rows - mean)]
    volume = -2 * np.log(np.diag(whitening)).mean()
    gain: NDArray[np.float64] = (np.minimum(*logs) - np.log(np.maximum(own, tiny)) - volume) / 2
    return gain

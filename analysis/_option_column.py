"""The options of many samples with their log-probabilities, laid end to end."""

from __future__ import annotations

__all__ = ["OptionColumn", "Options"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis._values import float_series, text_series

# Option -> log-probability, None where it is not finite.
Options = Mapping[str, float | None]


@dataclass(frozen=True)
class OptionColumn:
    """`counts` options of each sample, none for a sample without."""

    counts: NDArray[np.int64]  # (samples,)
    names: Sequence[str]  # (options of all samples,)
    logprobs: NDArray[np.float64]  # (options of all samples,), NaN where not finite

    @classmethod
    def of(cls, samples: Sequence[Options]) -> OptionColumn:
        """Lay the options of samples end to end."""
        values = list(chain.from_iterable(options.values() for options in samples))
        return cls(np.array(list(map(len, samples))), list(chain.from_iterable(samples)), np.array(values, dtype=float))

    @classmethod
    def numbered(cls, counts: Sequence[int], logprobs: NDArray[np.float64]) -> OptionColumn:
        """Options without names: each is called by its place, from 0."""
        names = chain.from_iterable(map(_places, counts))
        return cls(np.array(counts), list(names), np.where(np.isfinite(logprobs), logprobs, np.nan))

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.counts) - self.counts

    def at(self, sample: int) -> Options:
        """The options of one sample."""
        part = slice(int(self._starts[sample]), int(self._starts[sample] + self.counts[sample]))
        values = (None if np.isnan(value) else value for value in self.logprobs[part].tolist())
        return dict(zip(self.names[part], values, strict=True))

    def most_probable(self) -> list[str]:
        """The name of each sample's most probable option, empty where none has a log-probability; every sample has
        options."""
        top = np.fmax.reduceat(self.logprobs, self._starts)
        hits = np.flatnonzero(self.logprobs == np.repeat(top, self.counts))
        owners, first = np.unique(np.repeat(np.arange(self.counts.size), self.counts)[hits], return_index=True)
        answers = [""] * self.counts.size
        for owner, place in zip(owners.tolist(), hits[first].tolist(), strict=True):
            answers[owner] = self.names[place]
        return answers

    def confidence(self, parsed: Sequence[Any]) -> NDArray[np.float64]:
        """Softmax over each sample's options, at its parsed answer; NaN where the answer is none of them."""
        out = np.full(self.counts.size, np.nan)
        has = self.counts > 0
        if not has.any():
            return out
        counts, starts = self.counts[has], self._starts[has]
        weights = np.exp(self.logprobs - np.repeat(np.fmax.reduceat(self.logprobs, starts), counts))
        share = weights / np.repeat(np.add.reduceat(np.nan_to_num(weights), starts), counts)
        said = self._is_answer(parsed)
        out[np.repeat(np.arange(self.counts.size), self.counts)[said]] = share[said]
        return out

    def _is_answer(self, parsed: Sequence[Any]) -> NDArray[np.bool_]:
        """Which options are their sample's answer: (options of all samples,)."""
        folded = {name: _fold(name) for name in set(self.names)}
        number = {text: place for place, text in enumerate(dict.fromkeys(folded.values()))}
        code = {name: number[text] for name, text in folded.items()}
        own = np.fromiter(map(code.__getitem__, self.names), dtype=np.int64, count=len(self.names))
        said = [-1 if answer is None else number.get(_fold(str(answer)), -1) for answer in parsed]
        return np.asarray(own == np.repeat(said, self.counts))

    def series(self) -> pl.Series:
        """The column `option_logprobs`; null for a sample without options."""
        options = pl.DataFrame({"option": text_series(self.names), "logprob": float_series(self.logprobs)})
        samples, most = self.counts.size, int(self.counts.max(initial=0))
        if most and (self.counts == most).all():
            return options.to_struct("options").reshape((samples, most)).arr.to_list()
        rows = np.arange(samples)
        listed = options.select(pl.struct("option", "logprob").alias("options")).with_columns(
            row=pl.Series(np.repeat(rows, self.counts))
        )
        lists = listed.group_by("row", maintain_order=True).agg("options")
        if lists.height < rows.size:
            lists = pl.DataFrame({"row": rows}).join(lists, on="row", how="left", maintain_order="left")
        return lists["options"]


@lru_cache
def _places(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


@lru_cache(maxsize=4096)
def _fold(text: str) -> str:
    return text.strip().rstrip(".").casefold()

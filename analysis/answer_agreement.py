"""Do two runs give the same answers? Parsed answers and option probabilities, question by question."""

from __future__ import annotations

__all__ = ["AnswerAgreement", "answer_codes"]

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis import pair_measures as pair
from vlm_backbones.analysis.bootstrap import cluster_sums, pattern_bootstrap
from vlm_backbones.analysis.interval_rows import SAMPLE_DRAWS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
Bools = NDArray[np.bool_]


def answer_codes(parsed: pl.Series) -> Codes:
    """A number for each distinct answer, -1 for none: (samples,)."""
    codes = parsed.cast(pl.String).cast(pl.Categorical(pl.Categories.random())).to_physical()
    return codes.cast(pl.Int32).fill_null(-1).to_numpy()


@dataclass(frozen=True)
class AnswerAgreement:
    """Answers of two runs to the questions that both scored.

    Attributes
    ----------
    first, second
        (questions,) answer codes of `answer_codes`.
    both_wrong
        (questions,)
    capa_terms
        (questions, 4) `pair_measures.capa_terms`, NaN where a run has no option probabilities.
    cluster
        (questions,) codes 0..C-1.
    """

    first: Codes
    second: Codes
    both_wrong: Bools
    capa_terms: Floats
    cluster: Ints

    @cached_property
    def values(self) -> dict[str, float]:
        """same_answer_rate, answer_kappa, same_wrong_rate and capa."""
        return {name: float(values[0]) for name, values in self._measures(self._sums.sum(axis=0)[None]).items()}

    @property
    def counts(self) -> dict[str, int]:
        """Questions behind each of the values."""
        answered, wrong, usable = (int(part.sum()) for part in (self._answered, self._wrong, self._usable))
        return {
            "same_answer_rate": answered,
            "answer_kappa": answered,
            "same_wrong_rate": wrong,
            "capa": usable,
        }

    def drawn(self, rng: np.random.Generator) -> dict[str, Floats]:
        """The values of each bootstrap draw over clusters; kappa's by its influence function."""
        return self._measures(pattern_bootstrap(cluster_sums(self._columns, self.cluster), SAMPLE_DRAWS, rng))

    @property
    def _answered(self) -> Bools:
        return (self.first >= 0) & (self.second >= 0)

    @property
    def _wrong(self) -> Bools:
        return self._answered & self.both_wrong

    @property
    def _usable(self) -> Bools:
        return ~np.isnan(self.capa_terms[:, 0])

    @cached_property
    def _columns(self) -> Floats:
        same = self._answered & (self.first == self.second)
        terms = np.nan_to_num(self.capa_terms)
        columns: Floats = np.column_stack(
            [same, self._answered, same & self.both_wrong, self._wrong, self._kappa_parts(same), terms, self._usable]
        )
        return columns

    @cached_property
    def _sums(self) -> Floats:
        sums: Floats = self._columns.sum(axis=0, keepdims=True)
        return sums

    def _measures(self, totals: Floats) -> dict[str, Floats]:
        """Values of each row of totals (draws, columns)."""
        same, answered, same_wrong, wrong, kappa_parts = totals[:, :5].T
        with np.errstate(invalid="ignore", divide="ignore"):
            means = totals[:, 5:9] / totals[:, 9:]
        return {
            "same_answer_rate": pair.ratio(same, answered),
            "answer_kappa": pair.ratio(kappa_parts, answered),
            "same_wrong_rate": pair.ratio(same_wrong, wrong),
            "capa": pair.capa_of_means(means),
        }

    def _kappa_parts(self, same: Bools) -> Floats:
        """Numbers whose mean over the answered questions is Cohen's kappa, and whose spread is its sampling error.

        kappa + (same - observed) / (1 - e) - (1 - observed) / (1 - e)^2 (p_b(a) + p_a(b) - 2 e), with e the agreement
        by chance: its first-order expansion (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 21).
        """
        answered, n = self._answered, int(self._answered.sum())
        out = np.zeros(answered.size)
        if not n:
            return out
        a, b = self.first[answered], self.second[answered]
        share_a, share_b = (np.bincount(codes, minlength=int(max(a.max(), b.max())) + 1) / n for codes in (a, b))
        observed, chance = float(same.sum()) / n, float((share_a * share_b).sum())
        if chance == 1:
            return np.where(answered, np.nan, 0.0)
        by_chance = share_b[a] + share_a[b] - 2 * chance
        left = 1 - chance
        kappa = (observed - chance) / left
        out[answered] = kappa + (same[answered] - observed) / left - (1 - observed) / left**2 * by_chance
        return out

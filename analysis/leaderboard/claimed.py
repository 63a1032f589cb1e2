"""One number that a source claims about one row of the leaderboard, before sources are brought together."""

from __future__ import annotations

__all__ = ["MISSING_TEXT", "Claim", "Entry", "Unit", "visible"]

import math
import unicodedata
from dataclasses import dataclass
from typing import Literal

Unit = Literal["percent", "fraction", "points"]

MISSING_TEXT = frozenset({"", "-", "\u2013", "\u2014", "n/a", "na", "nan"})


@dataclass(frozen=True)
class Entry:
    """Who was measured: a run whose logs were given, or a line of a published table."""

    name: str
    architecture: str
    backbone: str
    checkpoint: str
    kind: Literal["run", "published"]


@dataclass(frozen=True)
class Claim:
    """One score of one entry on one benchmark.

    As a source gives it, `unit`, `higher_is_better`, `worst` and `best` are None where it does not say. `is_mean`: the
    value is a mean over `n` questions of scores between 0 and 1, so that a binomial interval holds. `error` is the
    standard error, in the unit of `value`; NaN where unknown.
    """

    entry: Entry
    benchmark: str
    metric: str
    value: float
    origin: Literal["samples", "results", "table"]
    source: str
    unit: Unit | None = None
    higher_is_better: bool | None = None
    worst: float | None = None
    best: float | None = None
    n: int | None = None
    n_missing: int = 0
    is_mean: bool = False
    ci_low: float = math.nan
    ci_high: float = math.nan
    error: float = math.nan

    @property
    def basis(self) -> Literal["samples", "binomial", "unknown"]:
        """What the interval rests on."""
        if math.isnan(self.error):
            return "unknown"
        return "samples" if self.origin == "samples" else "binomial"


def visible(text: str) -> str:
    """Return the text with control, direction and surrogate characters written as their code point.

    A name can then neither rearrange a line nor break the XML of a picture.

    Examples
    --------
    >>> visible("a\\u202eb")
    'aU+202Eb'
    """
    return "".join(f"U+{ord(c):04X}" if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn"} else c for c in text)

"""The standing: every entry's score on every benchmark, each benchmark on one scale."""

from __future__ import annotations

__all__ = ["Benchmark", "Standing"]

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis.leaderboard.claimed import Claim, Entry
from vlm_backbones.analysis.pairing import Paired

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Benchmark:
    """A column: in percent (0 to 100) or in points. `worst` and `best` are None where points have no known ends."""

    name: str
    metric: str
    unit: Literal["percent", "points"]
    higher_is_better: bool
    worst: float | None
    best: float | None

    @property
    def width(self) -> float:
        """The largest difference that two scores can have; infinite without ends."""
        return math.inf if self.worst is None or self.best is None else abs(self.best - self.worst)

    @property
    def step(self) -> float:
        """Normalised points for one point of the score; negative where lower is better, NaN without ends."""
        return math.nan if self.worst is None or self.best is None else 100 / (self.best - self.worst)

    def normalised(self, value: Floats) -> Floats:
        """100 (value - worst) / (best - worst): 0 is the worst possible, 100 the best, higher always better."""
        return (value - (self.worst or 0.0)) * self.step


@dataclass(frozen=True)
class Standing:
    """Every entry's score on every benchmark that it has; a missing score is absent, never zero.

    `cells` maps (entry, benchmark) to the claim in the benchmark's unit, with its interval; `paired` maps a benchmark
    to the samples of the runs that logged some, named as the entries are, in its unit.
    """

    entries: list[Entry]
    labels: list[str]
    benchmarks: list[Benchmark]
    cells: dict[tuple[int, int], Claim]
    paired: dict[int, Paired] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def _matrix(self, name: str) -> Floats:
        out = np.full((len(self.entries), len(self.benchmarks)), np.nan)
        for place, claim in self.cells.items():
            out[place] = getattr(claim, name)
        return out

    @cached_property
    def value(self) -> Floats:
        """(entries, benchmarks), NaN where missing."""
        return self._matrix("value")

    @cached_property
    def error(self) -> Floats:
        """Standard errors, (entries, benchmarks), NaN where unknown."""
        return self._matrix("error")

    @cached_property
    def oriented(self) -> Floats:
        """`value`, negated where lower is better: (entries, benchmarks)."""
        signs = [1.0 if benchmark.higher_is_better else -1.0 for benchmark in self.benchmarks]
        return self.value * np.array(signs, dtype=np.float64)

    @cached_property
    def normalised(self) -> Floats:
        """Normalised scores, (entries, benchmarks); NaN where missing or where the scale has no ends."""
        columns = [b.normalised(self.value[:, j]) for j, b in enumerate(self.benchmarks)]
        return np.column_stack(columns) if columns else np.empty((len(self.entries), 0))

"""Verdicts: does this study support what was claimed of newer backbones? Rules, not opinions.

A claim is a conjunction of components, each a statistic with a bootstrap (or exact) interval and a region. It is
supported where every interval lies inside its region and the p-value, Holm-adjusted over all claims of the study, is
at most 0.05; not supported where some interval lies wholly outside; undecided otherwise, and always where something
that the rule needs is missing.
"""

from __future__ import annotations

__all__ = ["Claim", "Component", "judge_claims"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis.bootstrap import interval
from vlm_backbones.analysis.many_measures import holm

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Component:
    """One statistic of a claim and the region that supports it.

    Attributes
    ----------
    above, below
        Ends of the region; infinite where it is open.
    p
        One-sided p-value of "outside the region" (the larger of both sides where both ends are finite).
    """

    name: str
    value: float
    low: float
    high: float
    p: float
    above: float = -math.inf
    below: float = math.inf

    @classmethod
    def from_draws(
        cls, name: str, value: float, draws: Floats, *, above: float = -math.inf, below: float = math.inf
    ) -> Component:
        """Judge a statistic by its bootstrap draws: percentile interval and share of draws outside the region."""
        low, high = interval(draws)
        kept = draws[np.isfinite(draws)]
        if not kept.size or math.isnan(low):
            return cls(name, value, math.nan, math.nan, math.nan, above, below)
        sides = [(1 + int(beyond.sum())) / (1 + kept.size) for beyond in (kept <= above, kept >= below)]
        return cls(name, value, low, high, min(1.0, max(sides)), above, below)

    @property
    def inside(self) -> bool:
        """Whether the whole interval supports the claim."""
        return self.low > self.above and self.high < self.below

    @property
    def outside(self) -> bool:
        """Whether the whole interval speaks against it."""
        return self.high <= self.above or self.low >= self.below

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"{self.name} is not defined: a run is right on all questions or on none"
        if math.isnan(self.low):
            why = "in most resamples a run is right on all or on none"
            return f"{self.name} {self.value:.3f} (interval not defined: {why})"
        return f"{self.name} {self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Claim:
    """What is claimed of these checkpoints, by whom, the rule, and what the study measured.

    The first component's number stands in the table, all of them in its note. `missing` says what the rule
    needs and this study lacks; then the claim is undecided.
    """

    claim: str
    source: str
    rule: str
    components: tuple[Component, ...]
    n: int
    n_missing: int
    note: str = ""
    missing: str = ""


def judge_claims(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """Return the rows of the table `claims`; one Holm family over all claims that have a p-value."""
    p = np.array([np.max([part.p for part in claim.components], initial=-math.inf) for claim in claims])
    p[np.isneginf(p)] = np.nan  # no component; a component without a p-value leaves its claim without one
    p = np.where([bool(claim.missing) for claim in claims], np.nan, p)
    adjusted = np.full(len(claims), np.nan)
    known = ~np.isnan(p)
    adjusted[known] = holm(p[known])
    rows = []
    for claim, raw, by_holm in zip(claims, p, adjusted, strict=True):
        first = claim.components[0] if claim.components else None
        notes = [claim.missing, *map(str, claim.components), claim.note]
        rows.append(
            {
                "claim": claim.claim,
                "source": claim.source,
                "verdict": _verdict(claim, float(by_holm)),
                "value": None if first is None else first.value,
                "ci_low": None if first is None else first.low,
                "ci_high": None if first is None else first.high,
                "p": float(raw),
                "p_holm": float(by_holm),
                "n": claim.n,
                "n_missing": claim.n_missing,
                "rule": claim.rule,
                "note": "; ".join(note for note in notes if note),
            }
        )
    return rows


def _verdict(claim: Claim, by_holm: float) -> str:
    if claim.missing:
        return "undecided"
    if any(part.outside for part in claim.components):
        return "not supported"
    is_inside = bool(claim.components) and all(part.inside for part in claim.components)
    return "supported" if is_inside and by_holm <= 0.05 else "undecided"

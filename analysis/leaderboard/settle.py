"""Claims of all sources brought onto one unit, direction and scale a benchmark; contradictions are refused."""

from __future__ import annotations

__all__ = ["settle"]

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vlm_backbones.analysis.bootstrap import wilson
from vlm_backbones.analysis.leaderboard.claimed import Claim, Entry, Unit
from vlm_backbones.analysis.leaderboard.compare import binomial_error
from vlm_backbones.analysis.leaderboard.standing import Benchmark, Standing
from vlm_backbones.analysis.pairing import Paired
from vlm_backbones.errors import DataError

# Ends of the scales of lmms-eval's metrics that are sums (10 perception and 4 cognition subtasks of 200 points).
_KNOWN_ENDS = {"mme_perception_score": (0.0, 2000.0), "mme_cognition_score": (0.0, 800.0)}


def settle(claims: Sequence[Claim], paired: Mapping[str, Paired], notes: Iterable[str] = ()) -> Standing:
    """Bring the claims onto one unit, direction and scale a benchmark.

    Fractions become percent; a unit that no source states is read from the values of one kind of source together
    (fraction where all lie in 0 to 1, percent where all lie in 0 to 100, else points).

    Raises
    ------
    DataError
        If one benchmark has several units, metrics, directions or scales, or one entry two different values.
    """
    said = list(notes)
    by_name: dict[str, list[Claim]] = {}
    for claim in claims:
        by_name.setdefault(claim.benchmark, []).append(claim)
    entries = list(dict.fromkeys(claim.entry for claim in claims))
    place = {entry: i for i, entry in enumerate(entries)}
    benchmarks: list[Benchmark] = []
    cells: dict[tuple[int, int], Claim] = {}
    samples: dict[int, Paired] = {}
    for j, (name, own) in enumerate(by_name.items()):
        scaled = [_in_shown_unit(claim) for claim in _with_units(name, own, said)]
        benchmark = _describe(name, scaled)
        said += _other_metric(name, scaled)
        benchmarks.append(benchmark)
        for claim in scaled:
            spot = (place[claim.entry], j)
            cells[spot] = _one_of(cells.get(spot), _with_interval(claim, benchmark))
        if name in paired:
            factor = 100.0 if benchmark.unit == "percent" else 1.0
            samples[j] = replace(paired[name], score=paired[name].score * factor)
    return Standing(entries, _labels(entries), benchmarks, cells, samples, said)


def _with_units(name: str, claims: list[Claim], notes: list[str]) -> list[Claim]:
    out = []
    for claim in claims:
        unit = claim.unit or _read_unit([other.value for other in claims if other.origin == claim.origin])
        out.append(replace(claim, unit=unit))
    if any(
        one.unit is None and two.unit == "points" and two.best is None for one, two in zip(claims, out, strict=True)
    ):
        notes.append(
            f"{name}: values leave 0 to 100, so they are read as points; without the ends of their scale (worst, best) "
            "they count for ranks and not for the mean score."
        )
    return out


def _read_unit(values: Sequence[float]) -> Unit:
    low, high = min(values), max(values)
    if low < 0 or high > 100:
        return "points"
    return "fraction" if high <= 1 else "percent"


def _in_shown_unit(claim: Claim) -> Claim:
    """Fractions as percent; rounded to 1e-9, so that 100 x 0.646 ties with 64.6."""
    factor = 100.0 if claim.unit == "fraction" else 1.0
    numbers: dict[str, Any] = {
        key: None if number is None else round(number * factor, 9)
        for key, number in (("value", claim.value), ("worst", claim.worst), ("best", claim.best))
    }
    numbers |= {key: getattr(claim, key) * factor for key in ("ci_low", "ci_high", "error")}
    return replace(claim, unit="points" if claim.unit == "points" else "percent", **numbers)


def _describe(name: str, claims: Sequence[Claim]) -> Benchmark:
    unit = _agreed(name, "unit", claims, "write the column unit, or give one of them another name")
    metrics = {claim.metric for claim in claims if claim.origin == "table" and claim.metric}
    if len(metrics) > 1:
        raise DataError(
            f"benchmark {name}: the tables hold {' and '.join(sorted(metrics))}. Two metrics are not comparable: give "
            "each a benchmark name of its own."
        )
    higher = _agreed(name, "higher_is_better", claims, "correct one, or give one of them another name")
    ends = {(claim.worst, claim.best) for claim in claims if claim.best is not None and claim.worst is not None}
    if len(ends) > 1:
        shown = " and ".join(f"{worst:g} to {best:g}" for worst, best in sorted(ends))
        raise DataError(f"benchmark {name}: its scale runs from {shown}. Correct worst and best of one source.")
    metric = next((claim.metric for claim in claims if claim.metric), "")
    if ends:
        worst, best = ends.pop()
        if higher not in (None, best > worst):
            raise DataError(f"benchmark {name}: higher_is_better is {higher}, but worst and best say otherwise.")
        return Benchmark(name, metric, unit, best > worst, worst, best)
    higher = higher is not False
    known = (0.0, 100.0) if unit == "percent" else _KNOWN_ENDS.get(metric, (None, None))
    return Benchmark(name, metric, unit, higher, *(known if higher else known[::-1]))


def _other_metric(name: str, claims: Sequence[Claim]) -> list[str]:
    """Say where the runs' metric shares no word with the one that a published table names."""
    own = {claim.metric for claim in claims if claim.origin != "table" and claim.metric}
    published = {claim.metric for claim in claims if claim.origin == "table" and claim.metric}
    words = {word for metric in published for word in re.findall(r"[a-z0-9]+", metric.casefold())}
    return [
        f"{name}: {metric} of the runs stands beside {' and '.join(sorted(published))} of the published tables. "
        f"If these are two metrics, choose another with --benchmark {name}=TASK:METRIC."
        for metric in sorted(own)
        if words and not words & set(re.findall(r"[a-z0-9]+", metric.casefold().replace("_", " ")))
    ]


def _agreed(name: str, key: str, claims: Sequence[Claim], remedy: str) -> Any:
    """The one value that sources state of a benchmark; None where none states any."""
    stated = {getattr(claim, key): claim for claim in claims if getattr(claim, key) is not None}
    if len(stated) > 1:
        shown = " and ".join(f"{value} in {claim.source}" for value, claim in stated.items())
        raise DataError(f"benchmark {name}: {key} is {shown}. These cannot stand in one column: {remedy}.")
    return next(iter(stated), None)


def _with_interval(claim: Claim, benchmark: Benchmark) -> Claim:
    """Wilson's interval and the standard error of a mean over n questions whose samples nobody has."""
    if claim.origin == "samples" or not claim.is_mean or claim.n is None or benchmark.unit != "percent":
        return claim
    share = claim.value / 100
    low, high = wilson(share * claim.n, claim.n)
    return replace(claim, ci_low=100 * low, ci_high=100 * high, error=100 * binomial_error(share, claim.n))


def _one_of(old: Claim | None, new: Claim) -> Claim:
    if old is not None and old.value != new.value:
        raise DataError(
            f"{new.entry.name} ({new.entry.checkpoint or 'no checkpoint named'}) has two scores on {new.benchmark}: "
            f"{old.value:g} ({old.source}) and {new.value:g} ({new.source}). Keep one, or name different checkpoints."
        )
    return old or new


def _labels(entries: Sequence[Entry]) -> list[str]:
    """The entries' names; where two share one, the checkpoint tells them apart, and a number where that fails."""
    names = [entry.name for entry in entries]
    twice = Counter(names)
    names = [
        name if twice[name] == 1 else f"{name} ({entry.checkpoint if entry.kind == 'published' else 'run'})"
        for name, entry in zip(names, entries, strict=True)
    ]
    seen: Counter[str] = Counter()
    out = []
    for name in names:
        seen[name] += 1
        out.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return out

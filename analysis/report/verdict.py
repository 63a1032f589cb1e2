"""The first two sentences of the report, in plain words, each number with its interval."""

from __future__ import annotations

__all__ = ["Verdict", "write_verdict"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from vlm_backbones.analysis.bootstrap import wilson

_MOST_NAMED = 5


@dataclass(frozen=True)
class Verdict:
    """Headline, two sentences, and what must be said beside them."""

    headline: str
    scores: str
    questions: str
    caveat: str


def write_verdict(tables: Mapping[str, pl.DataFrame], headline: Mapping[str, str], runs: Sequence[str]) -> Verdict:
    """Compare the last run (newest) with the first (oldest); with one run, say what it reaches."""
    own = pl.DataFrame(list(headline.items()), schema={"task": pl.String, "metric": pl.String}, orient="row")
    scores = tables["scores"].join(own, on=["task", "metric"]).filter(pl.col("condition") == "clean")
    if len(runs) < 2:
        return _single(scores, runs[0])
    old, new = runs[0], runs[-1]
    pairs = tables["agreement"].filter((pl.col("run_a") == old) & (pl.col("run_b") == new) & (pl.col("n") > 0))
    if not pairs.height:
        return Verdict(f"{old} and {new} share no scored question", "Nothing to compare.", "", "")
    return _compared(pairs.to_dicts(), old, new)


def _compared(rows: list[dict[str, float]], old: str, new: str) -> Verdict:
    better = [row for row in rows if row["diff_low"] > 0]
    worse = [row for row in rows if row["diff_high"] < 0]
    even = [row for row in rows if row not in better and row not in worse]
    total = _count(len(rows), "task")
    if better and not worse:
        headline = f"{new} is better than {old} on {'all ' * (len(better) == len(rows) > 1)}{_of(better, total, rows)}"
    elif worse and not better:
        headline = f"{new} is worse than {old} on {'all ' * (len(worse) == len(rows) > 1)}{_of(worse, total, rows)}"
    elif better:
        headline = f"{new} is better than {old} on {len(better)} of {total} and worse on {len(worse)}"
    else:
        where = rows[0]["task"] if len(rows) == 1 else total
        headline = f"No difference between {new} and {old} stands out on {where}"
    groups = (("It gains {} points on {}", better), ("it loses {} points on {}", worse))
    parts = [_listed(pattern, group) for pattern, group in groups if group]
    parts += [f"no clear difference on {_some([_even(row) for row in even])}"] if even else []
    sentence = "; ".join(parts) + _n(rows)
    most = max(rows, key=lambda row: row["negative_flip_rate"] + row["positive_flip_rate"])
    questions = (
        f"On {most['task']}, {_share(most, 'n01')} of the questions are right only with {new}, and "
        f"{_share(most, 'n10')} only with {old} (n\u00a0=\u00a0{int(most['n']):,})."
    )
    return Verdict(headline, sentence[0].upper() + sentence[1:], questions, _caveat(rows))


def _caveat(rows: list[dict[str, float]]) -> str:
    if all(row["phi_ceiling"] is None or row["phi_ceiling"] != row["phi_ceiling"] for row in rows):
        return (
            "Whether they solve different questions, beyond what two seeds of one backbone would, is undecided: there "
            "is one seed a backbone. The verdict is about these checkpoints, not about generations."
        )
    return "The verdict is about these checkpoints, not about generations."


def _share(row: Mapping[str, float], count: str) -> str:
    """Share of the questions with Wilson's interval, n divided by the design effect of shared images."""
    low, high = wilson(row[count] / _effect(row), max(1, round(row["n"] / _effect(row))))
    return f"{_percent(row[count] / row['n'])} [{_percent(low, '')},\u00a0{_percent(high, '')}]"


def _effect(row: Mapping[str, float]) -> float:
    effect = row["design_effect"]
    return max(1.0, effect) if effect == effect else 1.0


def _of(group: list[dict[str, float]], total: str, rows: list[dict[str, float]]) -> str:
    if len(rows) == 1:
        return str(rows[0]["task"])
    return total if len(group) == len(rows) else f"{len(group)} of {total}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _listed(pattern: str, group: list[dict[str, float]]) -> str:
    """It gains 14.2 points [9.2, 19.2] on A, 3.0 [1.0, 5.0] on B."""
    sign = 1 if group[0]["diff"] > 0 else -1
    shown = []
    for row in sorted(group, key=lambda row: -abs(row["diff"])):
        low, high = sorted((sign * row["diff_low"], sign * row["diff_high"]))
        shown.append((f"{_points(sign * row['diff'])}", f"[{_points(low)},\u00a0{_points(high)}]", str(row["task"])))
    first = pattern.format(shown[0][0], f"{shown[0][2]}").replace(" points on", f" points {shown[0][1]} on")
    return _some([first, *(f"{value} {between} on {task}" for value, between, task in shown[1:])])


def _even(row: Mapping[str, float]) -> str:
    low, high = _points(row["diff_low"]), _points(row["diff_high"])
    return f"{row['task']} ({_points(row['diff'])} points [{low},\u00a0{high}])"


def _some(parts: Sequence[str]) -> str:
    """The first parts by name, the others by their number."""
    if len(parts) <= _MOST_NAMED:
        return _joined(parts)
    return _joined([*parts[: _MOST_NAMED - 1], f"{_count(len(parts) - _MOST_NAMED + 1, 'more task')}"])


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _n(rows: list[dict[str, float]]) -> str:
    sizes = [int(row["n"]) for row in rows]
    each = " each" if len(rows) > 1 else ""
    if len(set(sizes)) == 1:
        return f" (n\u00a0=\u00a0{sizes[0]:,}{each})."
    return f" (n\u00a0=\u00a0{min(sizes):,} to {max(sizes):,})."


def _points(value: float) -> str:
    return f"{100 * value:.1f}".replace("-", "\u2212")


def _percent(value: float, unit: str = "\u00a0%") -> str:
    return f"{100 * value:.1f}{unit}"


def _single(scores: pl.DataFrame, run: str) -> Verdict:
    shown = [
        f"{row['task']} {_percent(row['value'])} [{_percent(row['ci_low'], '')}, {_percent(row['ci_high'], '')}], "
        f"n\u00a0=\u00a0{row['n']:,}"
        for row in scores.to_dicts()
        if row["n"]
    ]
    rest = len(shown) - _MOST_NAMED
    named = shown if rest <= 1 else [*shown[:_MOST_NAMED], f"and {_count(rest, 'more task')}"]
    text = f"{'; '.join(named)}." if shown else "No sample has a score."
    return Verdict(f"What {run} reaches", text, "There is one run only: agreement needs the logs of a second one.", "")

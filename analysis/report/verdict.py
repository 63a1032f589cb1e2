"""The first two sentences of the report, in plain words, each number with its interval."""

from __future__ import annotations

__all__ = ["Verdict", "write_verdict"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from vlm_backbones.analysis.bootstrap import wilson


@dataclass(frozen=True)
class Verdict:
    """Headline, two sentences, and what must be said beside them."""

    headline: str
    scores: str
    questions: str
    caveat: str


def write_verdict(tables: Mapping[str, pl.DataFrame], headline: Mapping[str, str], runs: Sequence[str]) -> Verdict:
    """Compare the last run (newest) with the first (oldest); with one run, say what it reaches."""
    own = pl.DataFrame({"task": list(headline), "metric": list(headline.values())})
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
        headline = f"No difference between {new} and {old} stands out on {total}"
    parts = [
        f"{start} {'; '.join(map(_difference, group))}"
        for start, group in (("Gains:", better), ("Losses:", worse), ("Cannot be told apart:", even))
        if group
    ]
    most = max(rows, key=lambda row: row["negative_flip_rate"])
    low, high = wilson(most["n10"] / _effect(most), max(1, round(most["n"] / _effect(most))))
    questions = (
        f"The swap also loses answers: on {most['task']}, {_percent(most['negative_flip_rate'])} "
        f"[{_percent(low, '')}, {_percent(high)}] of the questions are right with {old} and wrong with {new}, while "
        f"{_percent(most['positive_flip_rate'])} go the other way (n = {int(most['n'])})."
    )
    return Verdict(headline, ". ".join(parts) + ".", questions, _caveat(rows))


def _caveat(rows: list[dict[str, float]]) -> str:
    if all(row["phi_ceiling"] is None or row["phi_ceiling"] != row["phi_ceiling"] for row in rows):
        return (
            "Whether they solve different questions, beyond what two seeds of one backbone would, is undecided: there "
            "is one seed a backbone. The verdict is about these checkpoints, not about generations."
        )
    return "The verdict is about these checkpoints, not about generations."


def _effect(row: Mapping[str, float]) -> float:
    effect = row["design_effect"]
    return max(1.0, effect) if effect == effect else 1.0


def _of(group: list[dict[str, float]], total: str, rows: list[dict[str, float]]) -> str:
    if len(rows) == 1:
        return str(rows[0]["task"])
    return total if len(group) == len(rows) else f"{len(group)} of {total}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _difference(row: Mapping[str, float]) -> str:
    points = f"{100 * row['diff']:+.1f} points [{100 * row['diff_low']:+.1f}, {100 * row['diff_high']:+.1f}]"
    return f"{row['task']} {points}, n = {int(row['n'])}".replace("-", "−" if "-" not in str(row["task"]) else "-")


def _percent(value: float, unit: str = " %") -> str:
    return f"{100 * value:.1f}{unit}"


def _single(scores: pl.DataFrame, run: str) -> Verdict:
    shown = [
        f"{row['task']} {_percent(row['value'])} [{_percent(row['ci_low'], '')}, {_percent(row['ci_high'], '')}], "
        f"n = {row['n']}"
        for row in scores.to_dicts()
        if row["n"]
    ]
    text = f"{'; '.join(shown)}." if shown else "No sample has a score."
    return Verdict(f"What {run} reaches", text, "There is one run only: agreement needs the logs of a second one.", "")

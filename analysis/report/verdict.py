"""The first two sentences of the report, in plain words, each number with its interval."""

from __future__ import annotations

__all__ = ["Verdict", "write_verdict"]

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from vlm_backbones.analysis.report.changes import Change, Changes, Ranged
from vlm_backbones.analysis.report.view import View

_MOST_NAMED = 5


@dataclass(frozen=True)
class Verdict:
    """Headline, two sentences, what must be said beside them, and the verdict at a sweep's best learning rates."""

    headline: str
    scores: str
    questions: str
    caveat: str
    best: str = ""


def write_verdict(view: View, changes: Changes | None, best: Changes | None = None) -> Verdict:
    """Compare the newest backbone with the oldest; with one run, say what it reaches.

    `best` are the same backbones' runs at the learning rates that a sweep chose for each.
    """
    if changes is None:
        return _single(view.headline(), view.runs[0])
    if not changes.tasks:
        return Verdict(f"{changes.old} and {changes.new} share no scored question", "Nothing to compare.", "", "")
    verdict = _compared(changes)
    return replace(verdict, best=_at_best_rates(_compared(best))) if best and best.tasks else verdict


def _at_best_rates(best: Verdict) -> str:
    return f"With each backbone at its own best learning rate, chosen on validation: {best.headline}. {best.scores}"


def _compared(changes: Changes) -> Verdict:
    rows, old, new = changes.tasks, changes.old, changes.new
    better, worse, even = ([row for row in rows if row.side == side] for side in ("better", "worse", "unclear"))
    total = _count(len(rows), "task")
    if better and not worse:
        headline = f"{new} is better than {old} on {'all ' * (len(better) == len(rows) > 1)}{_of(better, total, rows)}"
    elif worse and not better:
        headline = f"{new} is worse than {old} on {'all ' * (len(worse) == len(rows) > 1)}{_of(worse, total, rows)}"
    elif better:
        headline = f"{new} is better than {old} on {len(better)} of {total} and worse on {len(worse)}"
    else:
        where = rows[0].task if len(rows) == 1 else total
        headline = f"No difference between {new} and {old} stands out on {where}"
    parts = [_listed(verb, group) for verb, group in (("It gains", better), ("it loses", worse)) if group]
    parts += [f"no clear difference on {_some([_even(row) for row in even])}"] if even else []
    sentence = "; ".join(parts) + _n(rows)
    shares = [row for row in rows if row.is_share]
    if not shares:
        return Verdict(headline, sentence[0].upper() + sentence[1:], "", _caveat(changes))
    most = max(shares, key=lambda row: row.only_new[0] + row.only_old[0])
    questions = (
        f"On {most.task}, {_share(most.only_new)} of the questions are right only with {new}, and "
        f"{_share(most.only_old)} only with {old} (n\u00a0=\u00a0{most.n:,})."
    )
    return Verdict(headline, sentence[0].upper() + sentence[1:], questions, _caveat(changes))


def _caveat(changes: Changes) -> str:
    about = "The verdict is about these checkpoints, not about generations."
    if changes.seeds < 2:
        return (
            "Whether they solve different questions, beyond what two seeds of one backbone would, is undecided: there "
            f"is one seed a backbone. {about}"
        )
    widest = max(changes.tasks, key=lambda row: max(row.by_seed) - min(row.by_seed))
    low, high = _size(widest, min(widest.by_seed)), _size(widest, max(widest.by_seed))
    return (
        f"Means over {changes.seeds} seeds a backbone; the intervals are over questions. Seed by seed the difference "
        f"on {widest.task} runs from {low} to {high} {_unit(widest)}. {_beside_seed_noise(changes)}{about}"
    )


def _beside_seed_noise(changes: Changes) -> str:
    """Which differences stand out from the noise of the seeds, and which could be seeds alone."""
    known = [(row, row.with_seeds) for row in changes.tasks if row.with_seeds is not None]
    if not known:
        return ""
    shown = [
        f"{row.task} {_size(row, value)} {_unit(row)} [{_size(row, low)},\u00a0{_size(row, high)}]"
        f"{'' if low > 0 or high < 0 else ', within seed noise'}"
        for row, (value, low, high) in known
    ]
    return f"Counting the seeds as chance too: {'; '.join(shown[:_MOST_NAMED])} (table seeds). "


def _share(share: Ranged) -> str:
    value, low, high = share
    return f"{_percent(value)} [{_percent(low, '')},\u00a0{_percent(high, '')}]"


def _of(group: list[Change], total: str, rows: list[Change]) -> str:
    if len(rows) == 1:
        return rows[0].task
    return total if len(group) == len(rows) else f"{len(group)} of {total}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _listed(verb: str, group: list[Change]) -> str:
    """It gains 14.2 points [9.2, 19.2] on A, 3.0 [1.0, 5.0] on B."""
    shown = []
    for row in sorted(group, key=lambda row: -abs(row.diff[0])):
        value, *ends = (abs(end) for end in row.diff)
        low, high = sorted(ends)
        shown.append(f"{_size(row, value)} {_unit(row)} [{_size(row, low)},\u00a0{_size(row, high)}] on {row.task}")
    return _some([f"{verb} {shown[0]}", *(text.replace(" points", "", 1) for text in shown[1:])])


def _even(row: Change) -> str:
    value, low, high = (_size(row, end) for end in row.diff)
    many = "" if row.diff[1] <= 0 <= row.diff[2] else f"; p\u00a0=\u00a0{row.p_holm:.2f} over all tasks"
    return f"{row.task} ({value} {_unit(row)} [{low},\u00a0{high}]{many})"


def _unit(row: Change) -> str:
    return "points" if row.is_share else "of its own unit"


def _size(row: Change, value: float) -> str:
    """A share in percentage points, any other score as it is."""
    return _points(value) if row.is_share else f"{value:.2f}".replace("-", "\u2212")


def _some(parts: Sequence[str]) -> str:
    """The first parts by name, the others by their number."""
    if len(parts) <= _MOST_NAMED:
        return _joined(parts)
    return _joined([*parts[: _MOST_NAMED - 1], f"{_count(len(parts) - _MOST_NAMED + 1, 'more task')}"])


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _n(rows: list[Change]) -> str:
    sizes = [row.n for row in rows]
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

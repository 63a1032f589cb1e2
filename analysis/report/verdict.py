"""The first two sentences of the report, in plain words, each number with its interval."""

from __future__ import annotations

__all__ = ["Verdict", "write_verdict"]

from dataclasses import dataclass, replace

import polars as pl

from vlm_backbones.analysis.report.changes import Change, Changes
from vlm_backbones.analysis.report.leaders import find_leads, lead_headline, lead_questions, lead_scores
from vlm_backbones.analysis.report.numbers import (
    MOST_NAMED,
    count,
    joined,
    n_of,
    percent,
    share,
    size,
    some,
    unit,
)
from vlm_backbones.analysis.report.view import View


@dataclass(frozen=True)
class Verdict:
    """Headline, two sentences, what must be said beside them, and the verdict at a sweep's best learning rates."""

    headline: str
    scores: str
    questions: str
    caveat: str
    best: str = ""

    def __str__(self) -> str:
        """The verdict as plain text, a line a part."""
        parts = (self.headline, self.scores, self.questions, self.best, self.caveat)
        return "\n".join(part.replace("\u00a0", " ") for part in parts if part)


def write_verdict(view: View, changes: Changes | None, best: Changes | None = None) -> Verdict:
    """Say which backbone is best on which task, or what one run alone reaches.

    `best` are the same backbones' runs at the learning rates that a sweep chose for each.
    """
    if changes is None:
        return _single(view.headline(), view.runs[0])
    if not changes.pairs:
        return _nothing_compared(view, changes)
    verdict = _compared(view, changes)
    return replace(verdict, best=_at_best_rates(_compared(view, best))) if best and best.pairs else verdict


def _nothing_compared(view: View, changes: Changes) -> Verdict:
    """Why: a run without a score can be helped by its user."""
    scored = set(view.headline().filter(pl.col("n") > 0)["run"])
    empty = [run for run in view.runs if run not in scored]
    why = f"No sample of {joined(empty)} has a score: name the key that holds it with --score-key KEY." if empty else ""
    same = "They answered different tasks, or different questions."
    return Verdict(f"{joined(changes.sides)} share no scored question", f"Nothing to compare. {why or same}", "", "")


def _at_best_rates(best: Verdict) -> str:
    return f"With each backbone at its own best learning rate, chosen on validation: {best.headline}. {best.scores}"


def _compared(view: View, changes: Changes) -> Verdict:
    if len(changes.sides) == 2:
        said = _of_two(changes)
        return replace(said, scores=said.scores + _others(view, changes)) if changes.others else said
    leads = find_leads(changes)
    return Verdict(lead_headline(leads), lead_scores(leads), lead_questions(changes, leads), _caveat(changes))


def _of_two(changes: Changes) -> Verdict:
    rows, old, new = changes.tasks, changes.old, changes.new
    better, worse, even = ([row for row in rows if row.side == side] for side in ("better", "worse", "unclear"))
    total = count(len(rows), "task")
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
    parts += [f"no clear difference on {some([_even(row) for row in even])}"] if even else []
    sentence = f"{'; '.join(parts)} ({n_of(rows)})."
    shares = [row for row in rows if row.is_share]
    if not shares:
        return Verdict(headline, sentence[0].upper() + sentence[1:], "", _caveat(changes))
    most = max(shares, key=lambda row: row.only_new[0] + row.only_old[0])
    questions = (
        f"On {most.task}, {share(most.only_new)} of the questions are right only with {new}, and "
        f"{share(most.only_old)} only with {old} (n\u00a0=\u00a0{most.n:,})."
    )
    return Verdict(headline, sentence[0].upper() + sentence[1:], questions, _caveat(changes))


def _others(view: View, changes: Changes) -> str:
    """What the sides reach that the headline does not compare, on the task where the compared ones differ most."""
    task = max(changes.tasks, key=lambda row: abs(row.diff[0])).task
    known = view.headline().filter(pl.col("run").is_in(changes.others), task=task).sort("value")
    if not known.height:
        return f" The {count(len(changes.others), 'other run')} stand under Scores."
    ends = [
        f"{_reached(row, is_share=view.is_share(task))} ({row['run']})"
        for row in (known.row(0, named=True), known.row(-1, named=True))
    ]
    return f" The {count(len(changes.others), 'other run')} (under Scores) reach {ends[0]} to {ends[1]} on {task}."


def _reached(row: dict[str, float], *, is_share: bool) -> str:
    if is_share:
        return share((row["value"], row["ci_low"], row["ci_high"]))
    return f"{row['value']:.2f} [{row['ci_low']:.2f},\u00a0{row['ci_high']:.2f}]"


def _caveat(changes: Changes) -> str:
    about = "The verdict is about these checkpoints, not about generations."
    if changes.seeds < 2:
        return (
            "Whether they solve different questions, beyond what two seeds of one backbone would, is undecided: there "
            f"is one seed a backbone. {about}"
        )
    widest = max(changes.pairs, key=lambda row: max(row.by_seed) - min(row.by_seed))
    low, high = size(widest, min(widest.by_seed)), size(widest, max(widest.by_seed))
    return (
        f"Means over {changes.seeds} seeds a backbone; the intervals are over questions. Seed by seed the difference"
        f"{_between(widest, changes)} on {widest.task} runs from {low} to {high} {unit(widest)}. "
        f"{_beside_seed_noise(changes)}{about}"
    )


def _between(row: Change, changes: Changes) -> str:
    """Which two sides, where there are more."""
    return f" {row.new} \u2212 {row.old}" if len(changes.sides) > 2 else ""


def _beside_seed_noise(changes: Changes) -> str:
    """Which differences stand out from the noise of the seeds, and which could be seeds alone.

    Of more than two sides, the differences that the verdict calls clear.
    """
    rows = changes.pairs if len(changes.sides) == 2 else [row for row in changes.pairs if row.side != "unclear"]
    known = [(row, row.with_seeds) for row in rows if row.with_seeds is not None]
    if not known:
        return ""
    known.sort(key=lambda one: not one[1][1] <= 0 <= one[1][2])  # what could be seeds alone comes first
    shown = [
        f"{row.task}{_between(row, changes)} {size(row, value)} {unit(row)} [{size(row, low)},\u00a0{size(row, high)}]"
        f"{'' if low > 0 or high < 0 else ', within seed noise'}"
        for row, (value, low, high) in known
    ]
    return f"Counting the seeds as chance too: {'; '.join(shown[:MOST_NAMED])} (table seeds). "


def _of(group: list[Change], total: str, rows: list[Change]) -> str:
    if len(rows) == 1:
        return rows[0].task
    return total if len(group) == len(rows) else f"{len(group)} of {total}"


def _listed(verb: str, group: list[Change]) -> str:
    """It gains 14.2 points [9.2, 19.2] on A, 3.0 [1.0, 5.0] on B."""
    shown = []
    for row in sorted(group, key=lambda row: -abs(row.diff[0])):
        value, *ends = (abs(end) for end in row.diff)
        low, high = sorted(ends)
        shown.append(f"{size(row, value)} {unit(row)} [{size(row, low)},\u00a0{size(row, high)}] on {row.task}")
    return some([f"{verb} {shown[0]}", *(text.replace(" points", "", 1) for text in shown[1:])])


def _even(row: Change) -> str:
    value, low, high = (size(row, end) for end in row.diff)
    many = "" if row.diff[1] <= 0 <= row.diff[2] else f"; p\u00a0=\u00a0{row.p_holm:.2f} over all tasks"
    return f"{row.task} ({value} {unit(row)} [{low},\u00a0{high}]{many})"


def _single(scores: pl.DataFrame, run: str) -> Verdict:
    shown = [
        f"{row['task']} {percent(row['value'])} [{percent(row['ci_low'], '')}, {percent(row['ci_high'], '')}], "
        f"n\u00a0=\u00a0{row['n']:,}"
        for row in scores.to_dicts()
        if row["n"]
    ]
    rest = len(shown) - MOST_NAMED
    named = shown if rest <= 1 else [*shown[:MOST_NAMED], f"and {count(rest, 'more task')}"]
    text = f"{'; '.join(named)}." if shown else "No sample has a score."
    return Verdict(f"What {run} reaches", text, "There is one run only: agreement needs the logs of a second one.", "")

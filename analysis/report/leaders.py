"""The verdict on three to six backbones: who leads each task, and what cannot be told apart."""

from __future__ import annotations

__all__ = ["Lead", "find_leads", "lead_headline", "lead_questions", "lead_scores"]

from collections.abc import Sequence
from dataclasses import dataclass

from vlm_backbones.analysis.report.changes import Change, Changes
from vlm_backbones.analysis.report.numbers import count, difference, joined, n_of, share

_MOST_TASKS = 3
_MOST_RIVALS = 3


@dataclass(frozen=True)
class Lead:
    """One task: the side with the highest score, those that it is clearly ahead of, and those that it is not.

    Each comparison has the leader as its new side.
    """

    task: str
    side: str
    ahead: list[Change]
    alike: list[Change]
    tells: bool
    """Whether any two sides are told apart."""

    @property
    def largest(self) -> float:
        """The largest difference from the leader."""
        return max(abs(row.diff[0]) for row in [*self.ahead, *self.alike])


def find_leads(changes: Changes) -> list[Lead]:
    """Who leads each task, the task with the largest difference first."""
    tasks = dict.fromkeys(pair.task for pair in changes.pairs)
    leads = [_lead(task, [pair for pair in changes.pairs if pair.task == task], changes.sides) for task in tasks]
    return sorted(leads, key=lambda lead: -lead.largest)


def _lead(task: str, pairs: Sequence[Change], sides: Sequence[str]) -> Lead:
    gains = dict.fromkeys((side for side in sides if any(side in (pair.old, pair.new) for pair in pairs)), 0.0)
    for pair in pairs:
        gain = pair.diff[0] * (-1 if pair.lower_is_better else 1)
        gains[pair.new] += gain
        gains[pair.old] -= gain
    first = max(gains, key=gains.__getitem__)
    own = [pair.seen_from(first) for pair in pairs if first in (pair.old, pair.new)]
    ahead = [pair for pair in own if pair.side == "better"]
    tells = any(pair.side != "unclear" for pair in pairs)
    return Lead(task, first, ahead, [pair for pair in own if pair.side != "better"], tells)


def lead_headline(leads: Sequence[Lead]) -> str:
    """Who is best where, and where nobody is."""
    alone: dict[str, list[str]] = {}
    for lead in leads:
        if not lead.alike:
            alone.setdefault(lead.side, []).append(lead.task)
    if not alone:
        where = leads[0].task if len(leads) == 1 else "any task"
        return f"No backbone is clearly best on {where}"
    if len(leads) == 1:
        return f"{leads[0].side} is best on {leads[0].task}"
    parts = [
        f"{side} {'is best ' * (place == 0)}on {_where(tasks, len(leads))}"
        for place, (side, tasks) in enumerate(alone.items())
    ]
    rest = len(leads) - sum(map(len, alone.values()))
    if len(alone) > _MOST_RIVALS:
        parts = [*parts[: _MOST_RIVALS - 1], f"{len(alone) - _MOST_RIVALS + 1} others elsewhere"]
    return joined(parts) + (f"; none on the other {f'{rest} tasks' if rest > 1 else 'task'}" if rest else "")


def _where(tasks: Sequence[str], total: int) -> str:
    if len(tasks) == total:
        return f"all {total} tasks"
    return joined(tasks) if len(tasks) <= 2 else f"{len(tasks)} of {total} tasks"


def lead_scores(leads: Sequence[Lead]) -> str:
    """On A X is ahead of Y by 14.2 points [9.2, 19.2] and of Z by ...; no clear difference on B (...)."""
    told = [lead for lead in leads if lead.tells]
    level = [lead for lead in leads if not lead.tells]
    parts = [_standing(lead) for lead in told[:_MOST_TASKS]]
    if len(told) > _MOST_TASKS:
        parts.append(f"{count(len(told) - _MOST_TASKS, 'more task')} differ less")
    if level:
        parts.append(f"no two can be told apart on {joined([_level(lead) for lead in level[:_MOST_TASKS]])}")
    if len(level) > _MOST_TASKS:
        parts.append(f"nor on {count(len(level) - _MOST_TASKS, 'more task')}")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _standing(lead: Lead) -> str:
    said = f"on {lead.task} ({_sizes([*lead.ahead, *lead.alike])}) {lead.side} "
    if not lead.ahead:
        return f"{said}scores highest, but cannot be told apart from {_rivals(lead.alike)}"
    beaten = sorted(lead.ahead, key=lambda row: abs(row.diff[0]))
    if len(beaten) > _MOST_RIVALS:
        said += f"is ahead of {len(beaten)}, from {_by(beaten[0])} to {_by(beaten[-1])}"
    else:
        said += f"is ahead of {joined([_by(row) for row in beaten])}"
    return f"{said}, and cannot be told apart from {_rivals(lead.alike)}" if lead.alike else said


def _sizes(rows: Sequence[Change]) -> str:
    """n of all comparisons in one sentence."""
    return n_of({row.n: row for row in rows}.values())


def _by(row: Change) -> str:
    return f"{row.old} by {difference(row if row.diff[0] > 0 else row.seen_from(row.old))}"


def _rivals(rows: Sequence[Change]) -> str:
    return joined([f"{row.old} ({difference(row)}{_beside_holm(row)})" for row in rows])


def _beside_holm(row: Change) -> str:
    """The p-value where the interval alone would tell the two apart."""
    return "" if row.diff[1] <= 0 <= row.diff[2] else f"; p\u00a0=\u00a0{row.p_holm:.2f} over the task's pairs"


def _level(lead: Lead) -> str:
    widest = max(lead.alike, key=lambda row: abs(row.diff[0]))
    return f"{lead.task} (at most {widest.new} \u2212 {widest.old}: {difference(widest)}, {n_of([widest])})"


def lead_questions(changes: Changes, leads: Sequence[Lead]) -> str:
    """How many questions the leader solves and each other one does not, and the other way round, on the task where they
    differ most."""
    shares = [row for row in changes.pairs if row.is_share]
    if not shares:
        return ""
    most = max(shares, key=lambda row: row.only_new[0] + row.only_old[0]).task
    (lead,) = [lead for lead in leads if lead.task == most]
    first, *rest = sorted([*lead.ahead, *lead.alike], key=lambda row: changes.sides.index(row.old))
    said = (
        f"On {most}, {share(first.only_new)} of the questions are right with {lead.side} and wrong with {first.old}, "
        f"{share(first.only_old)} the other way round"
    )
    for row in rest[: _MOST_RIVALS - 1]:
        said += f"; against {row.old} it is {share(row.only_new)} and {share(row.only_old)}"
    return f"{said} ({_sizes([first, *rest[: _MOST_RIVALS - 1]])})."

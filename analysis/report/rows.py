"""The rows of the page's tables; where they are too many for a page, those of the best runs, and it says so."""

from __future__ import annotations

__all__ = ["Rows", "read_rows"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from vlm_backbones.analysis.exact_words import is_graded
from vlm_backbones.analysis.report.view import View, best_runs, plural
from vlm_backbones.analysis.table_scores import MINUS_CLEAN

Row = dict[str, Any]

_MOST_PAIRS = 200
_RUNS_OF_PAIRS = 20
_MOST_COUNTS = 20
_VERDICTS = ["supported", "not supported", "undecided"]


@dataclass(frozen=True)
class Rows:
    """Rows by section; `cut` says of tables with pairs what the page leaves to the CSV files (empty: nothing)."""

    scores: list[Row]
    perturbed: list[Row]
    every_metric: list[Row]
    agreement: list[Row]
    agreement_all: list[Row]
    calibration: list[Row]
    calibration_pairs: list[Row]
    solved_by_exactly: dict[str, list[tuple[int, int]]]
    coordinates: list[Row]
    claims: list[Row]
    claimed: str
    claim_counts: list[tuple[str, int]]
    cut: str


def read_rows(view: View, letters: Mapping[tuple[str, str], str]) -> Rows:
    """Collect what the templates list."""
    pairs = {name: view.table(name) for name in ("agreement", "calibration_pairs")}
    cut, count = "", len(view.runs) * (len(view.runs) - 1) // 2
    if count > _MOST_PAIRS:
        some = best_runs(view.tables["scores"], view.logs.headline, view.runs, _RUNS_OF_PAIRS)
        inside = pl.col("run_a").is_in(some) & pl.col("run_b").is_in(some)
        pairs = {name: table.filter(inside) if table.height else table for name, table in pairs.items()}
        cut = (
            f"Listed: the pairs among the {len(some)} best runs, of {plural(count, 'pair')}; the CSV file has them all."
        )
    claims = view.table("claims").to_dicts()
    verdicts = [row["verdict"] for row in claims]
    return Rows(
        scores=_scores(view, letters),
        perturbed=_perturbed(view),
        every_metric=view.table("scores").to_dicts(),
        agreement=pairs["agreement"].to_dicts(),
        agreement_all=view.table("agreement_all").to_dicts(),
        calibration=_calibration(view),
        calibration_pairs=pairs["calibration_pairs"].to_dicts(),
        solved_by_exactly={task: _solved_by_exactly(view, task) for task in view.tasks},
        coordinates=view.table("coordinates").to_dicts(),
        claims=claims,
        claimed=_claimed(claims),
        claim_counts=[(verdict, verdicts.count(verdict)) for verdict in _VERDICTS if verdict in verdicts],
        cut=cut,
    )


def _calibration(view: View) -> list[Row]:
    """The rows with `is_event`: whether the confidence is a probability of what counts as right.

    The probability of one wording is none of a score's threshold: of such a row only the ranking can be judged.
    """
    rows = view.table("calibration").to_dicts()
    graded = {task: is_graded(view.samples(task)) for task in {row["task"] for row in rows}}
    return [row | {"is_event": row["confidence_kind"] != "sequence" or not graded[row["task"]]} for row in rows]


def _claimed(claims: list[Row]) -> str:
    """How many rules of how many papers gave how many judgements: a rule is applied to each task and pair."""
    rules, sources = ({row[key] for row in claims} for key in ("rule", "source"))
    papers = "one paper" if len(sources) == 1 else f"{len(sources)} papers"
    applied = plural(len(claims), "judgement")
    return f"{plural(len(rules), 'rule')} from the claims of {papers}, by task and pair {applied}"


def _solved_by_exactly(view: View, task: str) -> list[tuple[int, int]]:
    """How many questions exactly k runs solve, k from 0 up; of many runs those k that occur."""
    counts = [0] * (len(view.runs) + 1)
    for row in view.table("solved_by", task=task).to_dicts():
        counts[0 if row["runs_right"] == "none" else row["runs_right"].count(" + ") + 1] += row["count"]
    return [(k, count) for k, count in enumerate(counts) if count or len(counts) <= _MOST_COUNTS]


def _scores(view: View, letters: Mapping[tuple[str, str], str]) -> list[Row]:
    """The headline metric of each task and run beside its blind baseline and letters."""
    clean, swap = (
        {(row["task"], row["run"]): row for row in view.headline(condition).to_dicts()}
        for condition in ("clean", "swap")
    )
    places = [(task, run) for task in view.tasks for run in view.runs]
    return [
        {"clean": clean[place], "swap": swap.get(place), "letters": letters.get(place, "")}
        for place in places
        if place in clean
    ]


def _perturbed(view: View) -> list[Row]:
    """The headline metric of each task and run under every condition beside `clean` on the same documents."""
    table = view.table("scores")
    table = table.filter(pl.col("condition") != "clean") if table.height else table
    known = {(row["task"], row["run"], row["condition"], row["metric"]): row for row in table.to_dicts()}
    conditions, rows = dict.fromkeys(condition for _, _, condition, _ in known), []
    for task, run in ((task, run) for task in view.tasks for run in view.runs):
        metric = view.logs.headline[task]
        changes = {
            condition: (known[task, run, condition, metric], row)
            for condition in conditions
            if (row := known.get((task, run, condition, f"{metric} {MINUS_CLEAN}")))
        }
        rows += [{"task": task, "run": run, "metric": metric, "changes": changes}] if changes else []
    return rows

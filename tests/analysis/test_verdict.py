"""The verdict on three backbones and more: every one is named, and none leads that chance could have put there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from vlm_backbones.analysis import analyze
from vlm_backbones.analysis.columns import build_table
from vlm_backbones.analysis.report.changes import Changes, find_changes
from vlm_backbones.analysis.report.verdict import Verdict, write_verdict
from vlm_backbones.analysis.report.view import look_at
from vlm_backbones.analysis.run_info import RunInfo
from vlm_backbones.analysis.samples import Logs

N = 1000


def pair(a: str, b: str, task: str, won: int, lost: int, p: float) -> dict[str, Any]:
    """A row of `agreement`: b wins and loses so many of 1,000 questions; p holds for Holm's too."""
    difference = (won - lost) / N
    low, high = (difference - 0.02, difference + 0.02) if p > 0.05 else (difference - 0.01, difference + 0.01)
    row = {"task": task, "run_a": a, "run_b": b, "n": N, "n_missing": 0, "n01": won, "n10": lost, "p": p, "p_holm": p}
    return row | {"diff": difference, "diff_low": low, "diff_high": high, "design_effect": 1.0}


def judged(rows: list[dict[str, Any]], runs: list[str]) -> tuple[Changes, Verdict]:
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    scores = [
        {"run": run, "task": task, "condition": "clean", "metric": "acc", "value": 0.5 + place / 100, "ci_low": 0.4,
         "ci_high": 0.6, "n": N}
        for task in tasks for place, run in enumerate(runs)
    ]  # fmt: skip
    tables = {"scores": build_table("scores", scores), "agreement": build_table("agreement", rows)}
    infos = {run: RunInfo(run, run.removesuffix("-best"), 0, None, run.endswith("-best")) for run in runs}
    logs = Logs(pl.DataFrame(), pl.DataFrame(), dict.fromkeys(tasks, "acc"), infos)
    view = look_at(logs, tables, runs, tasks)
    changes = find_changes(view)
    assert changes is not None
    return changes, write_verdict(view, changes, find_changes(view, is_best=True))


def test_the_middle_one_may_lead_and_the_others_are_named() -> None:
    rows = [pair("a", "b", "t", 100, 20, 1e-9), pair("a", "c", "t", 40, 35, 0.6), pair("b", "c", "t", 20, 95, 1e-9)]
    _, verdict = judged(rows, ["a", "b", "c"])
    assert verdict.headline == "b is best on t"
    assert verdict.scores == (
        "On t (n\u00a0=\u00a01,000) b is ahead of c by 7.5 points [6.5,\u00a08.5] and a by 8.0 points [7.0,\u00a09.0]."
    )
    assert "right with b and wrong with a" in verdict.questions
    assert "against c it is 9.5\u00a0%" in verdict.questions


def test_each_n_of_the_comparisons_is_said() -> None:
    rows = [pair("a", "b", "t", 100, 20, 1e-9), pair("a", "c", "t", 40, 35, 0.6), pair("b", "c", "t", 20, 95, 1e-9)]
    _, verdict = judged([rows[0] | {"n": 400}, *rows[1:]], ["a", "b", "c"])
    assert verdict.scores.startswith("On t (n\u00a0=\u00a0400 to 1,000)")
    assert verdict.questions.endswith("(n\u00a0=\u00a0400 to 1,000).")


def test_a_lead_that_chance_may_have_made_is_none() -> None:
    rows = [pair("a", "b", "t", 100, 20, 1e-9), pair("a", "c", "t", 90, 20, 1e-9), pair("b", "c", "t", 40, 50, 0.4)]
    _, verdict = judged(rows, ["a", "b", "c"])
    assert verdict.headline == "No backbone is clearly best on t"
    assert "b is ahead of a by 8.0 points [7.0,\u00a09.0], and cannot be told apart from c" in verdict.scores


def test_nothing_told_apart_is_said_with_the_largest_difference() -> None:
    rows = [pair("a", "b", "t", 50, 45, 0.7), pair("a", "c", "t", 50, 40, 0.4), pair("b", "c", "t", 50, 49, 0.9)]
    _, verdict = judged(rows, ["a", "b", "c"])
    assert verdict.scores == (
        "No two can be told apart on t (at most c \u2212 a: 1.0 points [\u22121.0,\u00a03.0], n\u00a0=\u00a01,000)."
    )


def test_the_rates_that_a_sweep_chose_have_a_sentence_of_their_own() -> None:
    rows = [pair("a", "b", "t", 50, 45, 0.7), pair("a-best", "b-best", "t", 100, 20, 1e-9)]
    _, verdict = judged(rows, ["a", "b", "a-best", "b-best"])
    assert verdict.headline == "No difference between b and a stands out on t"
    assert verdict.best.startswith(
        "With each backbone at its own best learning rate, chosen on validation: b-best is better than a-best on t. "
    )


def test_each_task_has_its_own_leader() -> None:
    first = [pair("a", "b", "t", 100, 20, 1e-9), pair("a", "c", "t", 40, 35, 0.6), pair("b", "c", "t", 20, 95, 1e-9)]
    second = [pair("a", "b", "u", 50, 45, 0.7), pair("a", "c", "u", 300, 20, 1e-9), pair("b", "c", "u", 300, 20, 1e-9)]
    third = [pair("a", "b", "v", 50, 45, 0.7), pair("a", "c", "v", 50, 40, 0.4), pair("b", "c", "v", 50, 49, 0.9)]
    _, verdict = judged([*first, *second, *third], ["a", "b", "c"])
    assert verdict.headline == "c is best on u and b on t; none on the other task"


def test_of_many_runs_the_ends_are_compared_and_the_others_placed() -> None:
    runs = [f"r{i}" for i in range(8)]
    changes, verdict = judged([pair("r0", "r7", "t", 100, 20, 1e-9)], runs)
    assert changes.sides == ["r0", "r7"]
    assert changes.others == runs[1:7]
    assert verdict.headline == "r7 is better than r0 on t"
    assert "The 6 other runs (under Scores) reach 51.0\u00a0% [40.0,\u00a060.0] (r1) to 56.0" in verdict.scores


def test_the_other_side_sees_the_same_comparison_turned() -> None:
    changes, _ = judged([pair("a", "b", "t", 100, 20, 1e-9)], ["a", "b"])
    (row,) = changes.pairs
    turned = row.seen_from("a")
    assert turned.diff == pytest.approx((-row.diff[0], -row.diff[2], -row.diff[1]))
    assert (turned.old, turned.only_new, turned.side) == ("b", row.only_old, "worse")
    assert turned.seen_from("b") == row


def test_the_terminal_says_what_the_first_screen_says(make: SimpleNamespace, tmp_path: Path) -> None:
    for number, run in enumerate(("old", "middle", "new")):
        rows = [make.row(i, "a", "a", float(i % (number + 2) > 0)) for i in range(60)]
        make.log(tmp_path / "in" / run, rows)
    command = [sys.executable, "-m", "vlm_backbones.cli", "analyze", "in", "--out", "out", "--bootstrap", "100"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    verdict = (tmp_path / "out" / "verdict.txt").read_text(encoding="utf-8")
    assert said == f"{verdict}\nout/report.html\n"
    assert verdict.splitlines()[1] in page.replace("\u00a0", " ")
    assert "vqa" in verdict


def test_what_is_not_defined_is_said_and_never_nan(make: SimpleNamespace, tmp_path: Path) -> None:
    """One run right on everything, one but once: phi and most of its resamples are undefined."""
    for run, right in (("all", 60), ("most", 59), ("none", 0)):
        make.log(tmp_path / "in" / run, [make.row(i, "a", "a", float(i < right)) for i in range(60)])
    page = analyze([tmp_path / "in"], tmp_path / "out", bootstrap=100).read_text(encoding="utf-8")
    shown = page.split('<script type="application/json"')[0]
    assert "NaN" not in shown
    assert "nan," not in shown
    assert "[nan" not in shown
    assert "not defined" in shown
    assert "nan" not in (tmp_path / "out" / "verdict.txt").read_text().split()

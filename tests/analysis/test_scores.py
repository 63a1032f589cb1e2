"""The table `scores`: metrics of all answers together, metrics of some questions, and no score at all."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from vlm_backbones.analysis._aggregates import aggregate_of
from vlm_backbones.analysis.leaderboard.logged import parse_wanted
from vlm_backbones.analysis.leaderboard.sources import read_standing
from vlm_backbones.analysis.samples import load_logs
from vlm_backbones.analysis.table_scores import scores
from vlm_backbones.errors import ConfigError

KEYS = ("accuracy", "precision", "recall", "f1_score", "yes_ratio")


def pope_rows(make: SimpleNamespace, said: list[str], right: list[str]) -> list[dict[str, Any]]:
    """As `pope_process_results` of lmms-eval logs them: one mapping under every key."""
    rows = []
    for i, (answer, target) in enumerate(zip(said, right, strict=True)):
        logged = {"question_id": i, "score": float(answer == target), "prediction": answer, "ground_truth": target}
        rows.append(make.row(i, target, answer, None, **{f"pope_{key}": logged for key in KEYS}))
    return rows


def yes_no(seed: int, n: int = 200) -> list[str]:
    return np.random.default_rng(seed).choice(["yes", "no"], n, p=[0.4, 0.6]).tolist()


def by_metric(table: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in table.to_dicts()}


def test_pope_metrics_are_those_of_all_answers(tmp_path: Path, make: SimpleNamespace) -> None:
    said, right = yes_no(1), yes_no(2)
    make.log(tmp_path / "m", pope_rows(make, said, right), task="pope")
    found = by_metric(scores(load_logs([tmp_path]), bootstrap=2000))
    expected = {
        "pope_accuracy": np.mean(np.array(said) == np.array(right)),
        "pope_precision": precision_score(right, said, pos_label="yes"),
        "pope_recall": recall_score(right, said, pos_label="yes"),
        "pope_f1_score": f1_score(right, said, pos_label="yes"),
        "pope_yes_ratio": np.mean(np.array(said) == "yes"),
    }
    assert {name: row["value"] for name, row in found.items()} == pytest.approx(expected)
    for row in found.values():
        assert row["ci_low"] < row["value"] < row["ci_high"]
        assert (row["n"], row["n_missing"]) == (200, 0)


def test_an_answer_that_is_neither_counts_as_in_lmms_eval(tmp_path: Path, make: SimpleNamespace) -> None:
    """Yes right, no wrong, "maybe" to a yes: precision 1/1, recall 1/2 (no false negative for maybe), F1 2/3."""
    make.log(tmp_path / "m", pope_rows(make, ["yes", "no", "maybe"], ["yes"] * 3), task="pope")
    found = by_metric(scores(load_logs([tmp_path]), bootstrap=100))
    values = [found[f"pope_{key}"]["value"] for key in KEYS]
    assert values == pytest.approx([1 / 3, 1, 1 / 2, 2 / 3, 1 / 3])


def test_precision_of_a_run_that_never_says_yes_is_undefined(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", pope_rows(make, ["no"] * 4, ["yes", "no"] * 2), task="pope")
    found = by_metric(scores(load_logs([tmp_path]), bootstrap=100))
    assert math.isnan(found["pope_precision"]["value"])
    assert "undefined" in found["pope_precision"]["note"]
    assert found["pope_f1_score"]["value"] == found["pope_recall"]["value"] == 0


def test_pseudo_values_have_the_metric_as_mean_and_its_variance() -> None:
    """Their standard error against 4,000 drawn sets of answers."""
    rng = np.random.default_rng(0)

    def drawn() -> pl.DataFrame:
        right, said = rng.random(400) < 0.5, rng.random(400)
        said_yes = np.where(right, said < 0.8, said < 0.3)
        value = np.where(right & said_yes, 1.0, np.where(right | said_yes, 0.0, math.nan))
        return pl.DataFrame({"value": value})

    many = [aggregate_of("pope_f1_score", drawn()) for _ in range(4000)]
    first = many[0]
    assert first is not None
    assert first.pseudo_values.mean() == pytest.approx(first.value)
    spread = np.std([one.value for one in many if one])
    assert np.std(first.pseudo_values) / 20 == pytest.approx(spread, rel=0.15)


def mme_rows(make: SimpleNamespace, right: dict[str, list[tuple[int, int]]]) -> list[dict[str, Any]]:
    """Category -> an image's two questions; two categories are perception."""
    rows: list[dict[str, Any]] = []
    for category, images in right.items():
        kind = "perception" if category in {"color", "count"} else "cognition"
        for image, pair in enumerate(images):
            for score in pair:
                logged = {"question_id": f"{category}/{image}.png", "category": category, "score": float(score)}
                rows.append(make.row(len(rows), "Yes", "Yes", None, **{f"mme_{kind}_score": logged}))
    return rows


def test_mme_totals_are_the_official_ones_of_their_own_questions(tmp_path: Path, make: SimpleNamespace) -> None:
    """color: accuracy 75, accuracy+ 50; count: 50 and 0; code: 100 and 100."""
    rows = mme_rows(make, {"color": [(1, 1), (1, 0)], "count": [(1, 0)], "code": [(1, 1)]})
    make.log(tmp_path / "m", rows, task="mme")
    logs = load_logs([tmp_path])
    assert logs.samples["cluster"].n_unique() == 4  # images
    found = by_metric(scores(logs, bootstrap=200))
    assert {name: (row["value"], row["n"], row["n_missing"]) for name, row in found.items()} == {
        "accuracy": (0.75, 8, 0), "mme_perception_score": (175.0, 6, 0), "mme_cognition_score": (200.0, 2, 0),
    }  # fmt: skip


def test_mme_has_no_total_without_both_questions_of_an_image(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", mme_rows(make, {"color": [(1, 1), (1, 0)]})[:3], task="mme")
    row = by_metric(scores(load_logs([tmp_path]), bootstrap=100))["mme_perception_score"]
    assert math.isnan(row["value"])
    assert "both questions of every image" in row["note"]


@pytest.mark.parametrize("more", [{}, {"exact_match": None}])
def test_a_log_without_scores_has_a_row_that_says_so(tmp_path: Path, make: SimpleNamespace, more: Any) -> None:
    make.log(tmp_path / "m", [make.row(i, "x", "a", None, **more) for i in range(4)])
    logs = load_logs([tmp_path])
    row = scores(logs, bootstrap=100).row(0, named=True)
    assert (row["metric"], row["n"], row["n_missing"]) == ("exact_match" if more else "score", 0, 4)
    assert any("--score-key" in note for note in logs.notes)


def judged_row(make: SimpleNamespace, doc: int, grade: float | None, *capability: str) -> dict[str, Any]:
    """As `vlm_backbones.tasks.judged` logs an answer: null where no judge graded it."""
    metrics = {f"judge_score_{name}": grade for name in capability}
    ours = {"score": grade, "parsed": "x", "rungs": dict.fromkeys(capability, grade)}
    return dict(make.row(doc, "x", "x", None, judge_score=grade, **metrics, backbones=ours))


def test_answers_without_a_grade_are_missing_in_every_metric_that_asked_for_one(
    tmp_path: Path, make: SimpleNamespace
) -> None:
    """Of four questions two are ungraded; three need reading, of which one is graded; none of lang is."""
    rows = [judged_row(make, 0, 0.5, "ocr"), judged_row(make, 1, None, "ocr"), judged_row(make, 2, None, "ocr", "lang"),
            judged_row(make, 3, 1.0)]  # fmt: skip
    make.log(tmp_path / "a", rows, task="vip_bench_bbox")
    found = by_metric(scores(load_logs([tmp_path]), bootstrap=100))
    counts = {name: (row["n"], row["n_missing"]) for name, row in found.items()}
    assert counts == {"judge_score": (2, 2), "judge_score_ocr": (1, 2), "judge_score_lang": (0, 1)}
    assert found["judge_score"]["value"] == 0.75
    assert found["judge_score"]["value_missing_wrong"] == 0.375


def test_an_interval_holds_its_value_where_only_rounding_parts_them(tmp_path: Path, make: SimpleNamespace) -> None:
    """Equal grades, no right answer, only right ones: the interval's own arithmetic misses the value by a few ulp."""
    for value, n in ((0.1, 7), (0.0, 13), (1.0, 13), (0.7, 303)):
        make.log(tmp_path / f"{value}-{n}", [make.row(i, "x", "x", value) for i in range(n)])
        (row,) = scores(load_logs([tmp_path / f"{value}-{n}"]), bootstrap=200).to_dicts()
        assert row["ci_low"] <= row["value"] <= row["ci_high"]


def test_a_leaderboard_shows_f1_as_f1_and_pairs_it(tmp_path: Path, make: SimpleNamespace) -> None:
    right = yes_no(2)
    for run in (3, 4):
        make.log(tmp_path / f"m{run}", pope_rows(make, yes_no(run), right), task="pope")
    standing = read_standing([str(tmp_path)], wanted=[parse_wanted("POPE=pope:pope_f1_score")], bootstrap=200)
    for place, run in enumerate((3, 4)):
        cell = standing.cells[place, 0]
        assert cell.value == pytest.approx(100 * f1_score(right, yes_no(run), pos_label="yes"))
        assert (cell.unit, cell.n) == ("percent", 200)
        assert standing.paired[0].score[place].mean() == pytest.approx(cell.value)


def test_a_leaderboard_shows_mmes_total_in_points(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", mme_rows(make, {"color": [(1, 1), (1, 0)], "code": [(1, 1)]}), task="mme")
    standing = read_standing([str(tmp_path)], wanted=[parse_wanted("MME=mme")], bootstrap=200)
    assert (standing.cells[0, 0].value, standing.benchmarks[0].unit, standing.benchmarks[0].best) == (
        125,
        "points",
        2000,
    )


def test_accuracy_beside_a_published_f1_is_said(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", pope_rows(make, yes_no(1), yes_no(2)), task="pope")
    paths = [str(tmp_path), "vip-llava-study"]
    notes = read_standing(paths, wanted=[parse_wanted("POPE=pope")], bootstrap=100).notes
    assert any("pope_accuracy of the runs stands beside F1" in note for note in notes)
    for wanted in ([parse_wanted("POPE=pope:pope_f1_score")], []):  # the shipped table's own column
        f1 = read_standing(paths, wanted=wanted, bootstrap=100)
        assert not any("stands beside" in note for note in f1.notes)
        assert [cell.metric for cell in f1.cells.values() if cell.origin == "samples"] == ["pope_f1_score"]


@pytest.mark.parametrize(("asked", "meant"), [("pop", "pope"), ("pope:pope_f1", "pope_f1_score")])
def test_a_benchmark_that_no_log_has_is_refused(tmp_path: Path, make: SimpleNamespace, asked: str, meant: str) -> None:
    make.log(tmp_path / "m", pope_rows(make, yes_no(1), yes_no(2)), task="pope")
    with pytest.raises(ConfigError, match=f"Did you mean '{meant}'"):
        read_standing([str(tmp_path)], wanted=[parse_wanted(f"POPE={asked}")], bootstrap=100)

"""Our numbers beside the published ones: each metric of lmms-eval in its column and scale, missing ones marked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from vlm_backbones.analysis.leaderboard.beside import beside_table, render_beside
from vlm_backbones.analysis.leaderboard.logged import parse_wanted
from vlm_backbones.analysis.leaderboard.published import read_published, shipped_tables
from vlm_backbones.analysis.leaderboard.published_columns import columns_beside
from vlm_backbones.analysis.leaderboard.sources import read_standing, shipped_columns
from vlm_backbones.cli import main
from vlm_backbones.errors import DataError

STUDY = "vip-llava-study"
TABLE = shipped_tables()[STUDY]
OWN = {"v7w", "pointqa_looktwice", "vip_bench_bbox", "vip_bench_human", "mmvet_study", "textvqa_study"}
OTHER_QUESTION = {"mmvet", "textvqa_val"}  # lmms-eval's own prompts

# What lmms-eval would give for the published numbers of ViP-LLaVA Llama-3-8B: percent, fractions and points.
VALUES = {
    "mmbench_en_dev": ("gpt_eval_score", 71.0, "MMBench", 71.0),
    "llava_in_the_wild": ("gpt_eval_llava_all", 0.9, "LLaVA_W", 0.9),
    "pope": ("pope_f1_score", 0.875, "POPE", 87.5),
    "scienceqa_img": ("exact_match", 0.728, "ScienceQA", 72.8),
    "mme": ("mme_perception_score", 1492.7, "MME", 1492.7),
    "seedbench": ("seed_image", 0.697, "SEED-IMG", 69.7),
    "vizwiz_vqa_val": ("exact_match", 0.5, "VizWiz (val)", 50.0),
    "mmvet_study": ("judge_score", 0.311, "MMVet", 31.1),
    "mmvet": ("gpt_eval_score", 28.0, "MMVet (step by step)", 28.0),
    "v7w": ("accuracy", 0.843, "V7W", 84.3),
    "vip_bench_bbox": ("judge_score", 0.454, "ViP-Bench (BBox)", 45.4),
}


def write_results(folder: Path) -> Path:
    folder.mkdir(parents=True)
    content = {
        "results": {task: {f"{metric},none": value} for task, (metric, value, _, _) in VALUES.items()},
        "configs": {
            task: {"task": task, "metric_list": [{"metric": metric, "aggregation": "mean"}]}
            for task, (metric, _, _, _) in VALUES.items()
        },
        "n-samples": {task: {"original": 40, "effective": 40} for task in VALUES},
        "config": {"model": "backbone_vlm", "model_args": "pretrained=org/ours"},
    }
    (folder / "20260101_120000_results.json").write_text(json.dumps(content))
    return folder


def test_the_columns_are_those_of_the_table_and_the_tasks_exist() -> None:
    columns = columns_beside(TABLE)
    assert len(columns) == 18
    published = {claim.benchmark for claim in read_published(TABLE)}
    assert {row.column for row in columns if row.comparable} == published - {"VizWiz", "VQAv2"}
    assert {row.column for row in columns if not row.comparable} == {
        "VizWiz (val)", "VQAv2 (val)", "MMVet (step by step)", "TextVQA (no OCR)",
    }  # fmt: skip
    import lmms_eval.models  # noqa: F401  loads the entry point that adds our tasks
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import load_yaml_config

    manager = TaskManager("ERROR")
    for row in columns:
        config = load_yaml_config(manager.task_index[row.task]["yaml_path"], mode="simple")
        assert row.metric in {one["metric"] for one in config["metric_list"]}, row.task
    members = {
        task
        for name in ("backbone_study_image", "backbone_study_region")
        for task in load_yaml_config(manager.task_index[name]["yaml_path"], mode="simple")["task"]
    }
    assert {row.task for row in columns} == members | OTHER_QUESTION
    assert members >= OWN


def test_every_metric_stands_in_its_column_on_its_scale(tmp_path: Path) -> None:
    standing = read_standing([STUDY, str(write_results(tmp_path / "org__ours"))])
    table = beside_table(standing, shipped_columns([STUDY]))
    ours = table.filter(pl.col("kind") == "run")
    found = {row["benchmark"]: row for row in ours.iter_rows(named=True)}
    assert [name for name in found if "(val)" not in name and "step" not in name] == list(
        dict.fromkeys(claim.benchmark for claim in read_published(TABLE))
    )
    for _, _, column, shown in VALUES.values():
        assert found[column]["value"] == pytest.approx(shown), column
        assert found[column]["status"] == "measured"
    for column in ("MMBench_cn", "TextVQA", "GQA", "VizWiz", "VQAv2", "PointQA"):
        assert (found[column]["value"], found[column]["status"]) == (None, "missing")
    assert "VQAv2 (val)" not in found  # nobody measured this split, nobody published it
    text = {row["benchmark"]: row for row in render_beside(table)}
    assert text["POPE"]["org__ours"] == "87.5"
    assert text["GQA"]["org__ours"] == "missing"
    assert text["V7W"]["llava-1.5 Llama-3-8B"] == "missing"
    assert text["MME"]["vip-llava Llama-3-8B"] == "1,492.7"


def test_what_the_user_names_goes_before_the_shipped_columns(tmp_path: Path) -> None:
    folder = str(write_results(tmp_path / "org__ours"))
    standing = read_standing([STUDY, folder], wanted=[parse_wanted("mine=pope:pope_f1_score")])
    names = [benchmark.name for benchmark in standing.benchmarks]
    assert "mine" in names
    (row,) = (
        row for row in render_beside(beside_table(standing, shipped_columns([STUDY]))) if row["benchmark"] == "POPE"
    )
    assert row["org__ours"] == "missing"
    alone = read_standing([folder])
    assert {benchmark.name for benchmark in alone.benchmarks} == set(VALUES)  # no table, no renaming


def test_one_command_prints_our_numbers_beside_the_published_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_results(tmp_path / "org__ours")
    monkeypatch.setattr(
        sys, "argv", ["x", "leaderboard", STUDY, str(folder), "--out", str(tmp_path / "out"), "--bootstrap", "100"]
    )
    with pytest.raises(SystemExit, match="0"):
        main()
    shown = capsys.readouterr().out
    assert "87.5" in shown
    assert "missing" in shown
    assert shown.strip().endswith("leaderboard.html")
    assert "MMVet (step by step): not comparable, asks to think step by step first" in shown
    assert "SEED-IMG: the first character of the answer" in shown
    page = (tmp_path / "out" / "leaderboard.html").read_text()
    assert "Not as published: SEED-IMG: the first character of the answer" in page
    assert "GQA: " not in shown.partition("What our numbers differ in")[2]  # nobody measured it
    table = pl.read_csv(tmp_path / "out" / "published.csv")
    assert table.height == 18 * 9  # 16 published columns and two of ours alone, 8 published rows and ours
    # LLaVA-1.5 has no region columns (4 x 4), nobody published our two (2 x 8), we measured 11 of 18.
    assert table.filter(pl.col("status") == "missing").height == 16 + 16 + 7


def test_a_score_of_some_answers_says_how_many_are_missing(tmp_path: Path, make: SimpleNamespace) -> None:
    """Two of three answers graded: 100 * (0.4 + 0.8) / 2."""
    rows = [make.row(doc, "x", "x", None, judge_score=grade, backbones={"score": grade, "parsed": "x"})
            for doc, grade in enumerate((0.4, None, 0.8))]  # fmt: skip
    make.log(tmp_path / "ours", rows, task="mmvet_study")
    standing = read_standing([STUDY, str(tmp_path)], bootstrap=100)
    text = {row["benchmark"]: row["ours"] for row in render_beside(beside_table(standing, shipped_columns([STUDY])))}
    assert text["MMVet"] == "60.0 (1 missing)"


def test_a_malformed_file_is_named(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.with_suffix(".yaml").write_text("- {column: A}")
    with pytest.raises(DataError, match=r"t\.yaml is no list of columns"):
        columns_beside(table)
    row = "{column: A, task: t, metric: m, unit: percent, mean: true, differs: prompt}"
    table.with_suffix(".yaml").write_text(f"- {row}\n- {row}")
    with pytest.raises(DataError, match="two metrics fill the column A"):
        columns_beside(table)
    assert columns_beside(tmp_path / "other.csv") == []

"""Logs in, tables and report out."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from vlm_backbones.analysis import agreement, analyze, calibration, coordinates, read_samples
from vlm_backbones.analysis.columns import TABLES
from vlm_backbones.errors import LogError


@pytest.fixture(scope="module")
def report(study_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return analyze([study_dir], tmp_path_factory.mktemp("out"), study_dir=study_dir, bootstrap=500)


@pytest.fixture(scope="module")
def small_study(make: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = {"pocket-llama-1": 0.2, "pocket-llama-3": 0.9}
    return Path(make.study(tmp_path_factory.mktemp("small"), docs=30, runs=runs, media=False, hostile=False))


def test_every_table_is_written_with_its_columns(report: Path) -> None:
    for name, columns in TABLES.items():
        frame = pl.read_parquet(report.parent / "tables" / f"{name}.parquet")
        assert tuple(frame.columns) == columns
        header = (report.parent / "tables" / f"{name}.csv").read_text().splitlines()[0]
        assert header == ",".join(columns)
        needs_study = name in {"similarity", "probes", "stability", "claims", "seeds"}  # or several seeds
        assert (frame.height > 0) != needs_study


def test_hostile_answers_stay_text(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    data = "".join(path.read_text(encoding="ascii") for path in (report.parent / "report_data").glob("*.js"))
    assert "alert(1)" not in page
    assert "<" not in data
    assert max(map(len, data.split('"'))) < 5000


def test_the_page_asks_for_nothing_from_the_network(report: Path) -> None:
    page = report.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
    assert "http://" not in page
    assert "https://" not in page
    assert "unsafe-eval" not in page


def test_images_lie_beside_the_page(report: Path) -> None:
    assert len(list((report.parent / "report_data" / "media").glob("*.webp"))) == 40 + 120


def test_counts_and_scores_agree_with_the_samples(study_dir: Path) -> None:
    samples = read_samples([study_dir])
    table = agreement(samples, bootstrap=200)
    row = table.filter(task="seismic_coords", run_a="pocket-llama-1", run_b="pocket-llama-3").row(0, named=True)
    assert row["n11"] + row["n10"] + row["n01"] + row["n00"] == row["n"] == 120
    assert row["diff"] == pytest.approx((row["n01"] - row["n10"]) / 120)
    assert row["test"] == "mcnemar"
    assert row["p"] == row["mcnemar_p"]
    assert math.isnan(row["phi_ceiling"])
    shared = table.filter(task="vqa_scene")
    assert set(shared["test"]) == {"cluster sign-flip"}


def test_graded_scores_are_tested_as_they_are_not_at_the_threshold(tmp_path: Path, make: SimpleNamespace) -> None:
    for run, score in (("old", 0.8), ("new", 1.0)):  # right at 0.5 everywhere, yet one is better on all questions
        make.log(tmp_path / run, [make.row(i, "a", "a", score) for i in range(10)])
    row = agreement(read_samples([tmp_path]), bootstrap=100).row(0, named=True)
    assert row["test"] == "sign-flip"
    assert row["p"] == pytest.approx(2 / 2**10)
    assert row["mcnemar_p"] == 1.0
    assert abs(row["diff"]) == pytest.approx(0.2)


def test_seeds_give_a_ceiling(tmp_path: Path, make: SimpleNamespace) -> None:
    runs = {name: skill for skill, base in ((0.6, "old"), (0.8, "new")) for name in (base, f"{base}-seed1")}
    make.study(tmp_path, docs=40, runs=runs, media=False, hostile=False)
    table = agreement(read_samples([tmp_path]), bootstrap=100)
    notes = table.filter(task="vqa_scene", run_a="new", run_b="old")["note"].to_list()
    assert "ceiling" in notes[0]
    assert table.filter(run_a="new", run_b="new-seed1")["phi_ceiling"].is_nan().all()


def test_coordinates_are_scored_from_target_and_answer(study_dir: Path) -> None:
    table = coordinates(read_samples([study_dir]))
    assert table.height == 3
    row = table.row(0, named=True)
    assert row["answered"] == 1.0
    assert row["parsed"] == pytest.approx(117 / 120)
    assert row["within_50_km"] <= row["within_100_km"] <= row["within_250_km"] <= row["within_1000_km"]


def test_few_confidences_give_nan_and_a_note(tmp_path: Path, make: SimpleNamespace) -> None:
    make.study(tmp_path, docs=30, media=False, hostile=False)
    table = calibration(read_samples([tmp_path]))
    assert table["ece"].is_null().all()
    assert all("fewer than 50" in note for note in table["note"])


def test_one_run_gives_a_report_without_agreement(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "in" / "solo", [make.row(i, "a", "a", float(i % 2)) for i in range(20)])
    page = analyze([tmp_path / "in"], tmp_path / "out", bootstrap=100).read_text()
    assert "What solo reaches" in page
    assert "One run only" in page


def test_logs_without_any_score_give_a_report_that_says_so(tmp_path: Path, make: SimpleNamespace) -> None:
    for run in "ab":
        make.log(tmp_path / "in" / run, [make.row(i, f"text {i}", "other", None) for i in range(20)])
    page = analyze([tmp_path / "in"], tmp_path / "out", bootstrap=100).read_text()
    assert "--score-key" in page


def test_run_names_with_markup_are_escaped(tmp_path: Path, make: SimpleNamespace) -> None:
    for run in ("<b>x</b>", "y&z"):
        make.log(tmp_path / "in" / run.replace("/", "|"), [make.row(i, "a", "a", float(i % 2)) for i in range(20)])
    page = analyze([tmp_path / "in"], tmp_path / "out", bootstrap=100).read_text()
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_all_right_runs_give_nan_with_reasons(tmp_path: Path, make: SimpleNamespace) -> None:
    for run in "ab":
        make.log(tmp_path / "in" / run, [make.row(i, "a", "a", 1.0) for i in range(60)])
    analyze([tmp_path / "in"], tmp_path / "out", bootstrap=100)
    row = pl.read_parquet(tmp_path / "out" / "tables" / "agreement.parquet").row(0, named=True)
    assert math.isnan(row["phi"])
    assert "undefined" in row["note"]


def test_study_orders_runs_and_tasks(small_study: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(
        "name: turned\nbackbones: [pocket-llama-3, pocket-llama-1]\n"
        "tasks: [vqa_scene, seismic_coords]\n"
        "deviations: {pocket-llama-2: {learning_rate: 1.0e-5, reason: diverged}}\n"
    )
    page = analyze([small_study], tmp_path / "out", study_dir=tmp_path, bootstrap=100).read_text()
    assert "pocket-llama-1 is worse than pocket-llama-3" in page
    assert "learning_rate = 1e-05 (diverged)" in page


def test_bad_bootstrap_is_refused(study_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(LogError, match="at least 1"):
        analyze([study_dir], tmp_path, bootstrap=0)


def test_the_certificate_stands_on_the_first_page(small_study: Path, tmp_path: Path) -> None:
    certificate = {
        "equal": {"recipe": "ab" * 32},
        "backbones": {"a": {"digits": {"123": ["1", "2", "3"]}}, "b": {"digits": {"123": ["123"]}}},
        "varies": {"digits": "each backbone's own tokenizer"},
        "confounds": ["finetune: a cuts 3 answers"],
    }
    (tmp_path / "certificate.json").write_text(json.dumps(certificate))
    page = analyze([small_study], tmp_path / "out", study_dir=tmp_path, bootstrap=100).read_text()
    for text in ("1 facts equal", "1 vary, explained", "Confound: finetune: a cuts 3 answers", "1 · 2 · 3"):
        assert text in page


def test_import_loads_nothing_heavy() -> None:
    heavy = ["torch", "polars", "scipy", "altair", "lmms_eval"]
    code = f"import sys, vlm_backbones.analysis; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_each_part_of_the_work_is_said_before_it_begins(small_study: Path, tmp_path: Path) -> None:
    said: list[str] = []
    analyze([small_study], tmp_path, bootstrap=100, tell=said.append)
    assert said[0] == f"reading the logs under {small_study}"
    assert re.fullmatch(
        r"computing the tables: [\d,]+ samples of 2 runs and \d tasks, 100 resamples an interval", said[1]
    )
    assert said[2:] == ["drawing the report"]

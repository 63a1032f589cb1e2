"""A sweep: trials on validation, the best rate a backbone, and both recipes side by side in tables and report."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_backbones.analysis.log_files import find_logs
from vlm_backbones.analysis.sweep import choose_learning_rate
from vlm_backbones.errors import ConfigError, LogError
from vlm_backbones.pipeline import plan_study
from vlm_backbones.study import load_study

SWEEP = ["sweep={learning_rate: [1e-3, 1e-2]}", "analysis.conditions=[]", "analysis.states=false"]


@pytest.fixture(scope="module")
def swept(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of one backbone that tried two learning rates, the recipe's own among them."""
    out = tmp_path_factory.mktemp("swept")
    one = f"backbones=[{tiny_study.parent / 'tiny-1'}]"  # what a second one would add is in the plan, tested below
    changes = [part for change in [*SWEEP, one] for part in ("--set", change)]
    command = [sys.executable, "-m", "vlm_backbones.cli", "study", "run", str(tiny_study), *changes, "--out", str(out)]
    environment = dict(os.environ, VLM_BACKBONES_CACHE=str(out / "cache"), CUDA_VISIBLE_DEVICES="")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_best_rate_on_validation_is_trained_and_both_recipes_are_shown(swept: Path) -> None:
    with (swept / "tables" / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    runs = ["tiny-1", "tiny-1-best"]
    assert list(dict.fromkeys(row["run"] for row in rows)) == runs
    backbone = {row["run"]: row["backbone"] for row in rows}
    assert backbone["tiny-1-best"] == backbone["tiny-1"]
    choice = json.loads((swept / "sweep" / "tiny-1.json").read_text(encoding="utf-8"))
    assert [trial["learning_rate"] for trial in choice["trials"]] == [1e-3, 1e-2]
    best = max(trial["score"] for trial in choice["trials"])
    chosen = next(trial for trial in choice["trials"] if trial["learning_rate"] == choice["learning_rate"])
    assert chosen["score"] == best
    assert all(trial["n"] == 6 + 6 and trial["ci_low"] <= trial["score"] for trial in choice["trials"])
    record = json.loads((swept / "tiny-1-best" / "run.json").read_text(encoding="utf-8"))
    assert (record["learning_rate"], record["is_best"]) == (choice["learning_rate"], True)
    page = (swept / "report.html").read_text(encoding="utf-8")
    assert "Learning rates tried" in page


def test_trials_answer_the_validation_split(swept: Path) -> None:
    trial = swept / "sweep" / "tiny-1-lr0.01"
    done = json.loads((trial / "logs" / "clean" / "done.json").read_text(encoding="utf-8"))
    assert all(":validation:" in task["data"] for task in done["tasks"].values())


def test_an_analysis_of_the_whole_folder_leaves_the_trials_out(swept: Path) -> None:
    """They answered another split, so they cannot stand beside the runs."""
    assert {log.run for log in find_logs([swept])} == {"tiny-1", "tiny-1-best"}
    trial = swept / "sweep" / "tiny-1-lr0.01"
    assert {log.run for log in find_logs([trial])} == {"tiny-1-lr0.01"}


def test_no_training_is_done_twice(swept: Path) -> None:
    same = swept / "sweep" / "tiny-1-lr0.001"
    own, record = (json.loads((folder / "run.json").read_text("utf-8")) for folder in (swept / "tiny-1", same))
    assert (record["copied_from"], record["fingerprint"]) == ("tiny-1", own["fingerprint"])
    weights = [folder / "checkpoint" / "model.safetensors" for folder in (swept / "tiny-1", same)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    best = json.loads((swept / "tiny-1-best" / "run.json").read_text(encoding="utf-8"))
    assert "copied_from" in best


def test_a_trial_changes_every_finetuning_rate_by_the_same_factor(tiny_study: Path) -> None:
    study = load_study(tiny_study, ["recipe.finetune.projector_learning_rate=1e-4"])
    changed = study.recipe_for(study.backbones[0], 5e-3)
    assert changed.finetune_stages[0].learning_rate == 5e-3
    assert changed.finetune_stages[0].projector_learning_rate == pytest.approx(5e-4)
    assert changed.align == study.recipe.align
    assert study.recipe_for(study.backbones[0], 1e-3) == study.recipe  # the own rate is the recipe itself


def test_a_stage_waits_for_what_it_reads(tiny_study: Path, tmp_path: Path) -> None:
    stages = {stage.job.name: stage.job for stage in plan_study(load_study(tiny_study, SWEEP), tmp_path)}
    assert stages["train sweep/tiny-1-lr0.001"].needs == ("train tiny-1",)  # equal content: taken over
    assert stages["train sweep/tiny-1-lr0.01"].needs == ("check", "features")
    assert stages["choose tiny-1"].needs == ("eval sweep/tiny-1-lr0.001", "eval sweep/tiny-1-lr0.01")
    assert stages["train tiny-1-best"].needs == ("choose tiny-1",)
    assert set(stages["analyze"].needs) == {
        "check", "eval tiny-1", "eval tiny-2", "eval tiny-1-best", "eval tiny-2-best",
    }  # fmt: skip


@pytest.mark.parametrize("rates", ["[]", "[0]", "[1e-3, 1e-3]"])
def test_rates_that_make_no_sweep_are_refused(tiny_study: Path, rates: str) -> None:
    with pytest.raises(ConfigError, match="sweep"):
        load_study(tiny_study, [f"sweep={{learning_rate: {rates}}}"])


def test_the_higher_mean_over_tasks_wins_and_the_smaller_rate_a_tie(tmp_path: Path) -> None:
    right = {0.1: {"a": 3, "b": 1}, 0.2: {"a": 2, "b": 3}, 0.05: {"a": 3, "b": 2}}  # of four questions each
    for rate, tasks in right.items():
        for task, count in tasks.items():
            file = tmp_path / str(rate) / f"20260101_000000_samples_{task}.jsonl"
            file.parent.mkdir(exist_ok=True)
            rows = [
                {"doc_id": i, "target": "x", "filtered_resps": ["y"], "input": f"q{i}", "exact_match": float(i < count)}
                for i in range(4)
            ]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    choice = choose_learning_rate({rate: tmp_path / str(rate) for rate in right}, bootstrap=100)
    assert choice["learning_rate"] == 0.05
    assert {trial["learning_rate"]: trial["score"] for trial in choice["trials"]} == {0.1: 0.5, 0.2: 0.625, 0.05: 0.625}
    (tmp_path / "0.2" / "20260101_000000_samples_b.jsonl").unlink()
    with pytest.raises(LogError, match="holds no scored answers to b"):
        choose_learning_rate({rate: tmp_path / str(rate) for rate in right}, bootstrap=100)

"""A shortened study from command to report: what it writes, what a second call skips, what a kill leaves."""

from __future__ import annotations

import csv
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from vlm_backbones.errors import ConfigError


def test_every_stage_leaves_its_files(runs: Any, finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} >= {
        "study.yaml",
        "certificate.json",
        "report.html",
        "verdict.txt",
        "tables",
        "tiny-1",
        "tiny-2",
    }
    for name in ("tiny-1", "tiny-2"):
        run_dir = finished / name
        record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        assert record["state"] == "finished"
        assert len(record["files"]) == 2  # which weights: of the backbone and of the tower
        assert (
            json.loads((finished / "certificate.json").read_text())["backbones"][name]["files"]
            in record["files"].values()
        )
        assert (run_dir / "checkpoint" / "model.safetensors").is_file()
        for condition in ("clean", "swap", "noise05"):
            assert len(list((run_dir / "states" / condition).glob("*.safetensors"))) == 2
            assert len(list((run_dir / "logs" / condition).rglob("*_samples_*.jsonl"))) == 2
    assert {"scores.csv", "agreement.csv", "coordinates.csv", "calibration.csv"} <= runs.tables(finished).keys()
    assert not [path for path in finished.rglob("*") if ".partial" in path.name]


def test_the_scores_name_both_runs_and_both_conditions(finished: Path) -> None:
    with (finished / "tables" / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["run"], row["condition"]) for row in rows} == {
        (run_name, condition) for run_name in ("tiny-1", "tiny-2") for condition in ("clean", "swap", "noise05")
    }
    counts = {(row["condition"], row["n"]) for row in rows if row["metric"] == "vqa_accuracy"}
    assert counts == {("clean", "6"), ("swap", "6"), ("noise05", "4")}  # perturbations on the subset alone


def test_the_insides_are_compared_on_the_subset(runs: Any, finished: Path) -> None:
    read = {name: list(csv.DictReader(text.splitlines())) for name, text in runs.tables(finished).items()}
    # layers 0, 1, 2 of each of two runs: three pairs of runs with nine pairs of layers, four kinds of token, two tasks
    assert len(read["similarity.csv"]) == 3 * 9 * 4 * 2
    assert {row["n"] for row in read["similarity.csv"] if row["token_type"] == "last_prompt"} == {"4"}
    # two runs, two tasks, swap and noise05, three layers, four kinds of token, where an answer has tokens
    assert {row["condition"] for row in read["stability.csv"]} == {"swap", "noise05"}
    assert len([row for row in read["stability.csv"] if row["token_type"] == "last_prompt"]) == 2 * 2 * 2 * 3
    assert read["probes.csv"] == []  # four documents are too few
    assert {row["verdict"] for row in read["claims.csv"]} <= {"supported", "not supported", "undecided"}
    assert len(read["claims.csv"]) > 4


def test_a_second_call_skips_everything(runs: Any, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.suffix in {".csv", ".safetensors"}}
    start = time.perf_counter()
    done = runs.run(finished)
    assert done.returncode == 0
    assert "started" not in done.stdout
    assert time.perf_counter() - start < 20
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_last_study_points_to_the_newest_generation(finished: Path, cache: Path) -> None:
    pointer = json.loads((cache / "last_study.json").read_text(encoding="utf-8"))
    assert Path(pointer["checkpoint"]).name == "checkpoint"
    assert Path(pointer["checkpoint"]).parent.name == "tiny-2"


def test_a_change_repeats_only_what_it_touches(tiny_study: Path, finished: Path, cache: Path) -> None:
    from vlm_backbones.pipeline import study_status
    from vlm_backbones.study import load_study

    def left(*overrides: str) -> list[str]:
        return [stage.job.name for stage, done in study_status(load_study(tiny_study, overrides), finished) if not done]

    assert left() == []
    assert left("analysis.bootstrap=300") == ["check", "analyze"]
    assert left("evaluation.limit=5") == ["check", "eval tiny-1", "eval tiny-2", "analyze"]
    deviation = "deviations={" + str(tiny_study.parent / "tiny-2") + ": {finetune.learning_rate: 2e-3, reason: why}}"
    assert left(deviation) == ["check", "train tiny-2", "eval tiny-2", "analyze"]


def test_two_studies_cannot_work_in_one_folder(runs: Any, finished: Path) -> None:
    from filelock import FileLock

    with FileLock(finished / ".lock"):
        done = runs.run(finished)
    assert done.returncode == 2
    assert "another process is working" in done.stderr


def test_damaged_weights_and_lost_or_edited_samples_are_named(tiny_study: Path, finished: Path, tmp_path: Path) -> None:
    from vlm_backbones.analysis import read_samples
    from vlm_backbones.errors import LogError
    from vlm_backbones.pipeline import study_status
    from vlm_backbones.study import load_study

    out = tmp_path / "out"
    shutil.copytree(finished, out)
    weights = out / "tiny-1" / "checkpoint" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    logs = out / "tiny-2" / "logs" / "clean"
    lost, edited = (next(logs.rglob(f"*_samples_{task}.jsonl")) for task in ("vqa_scene", "seismic_coords"))
    text = edited.read_text(encoding="utf-8")
    edited.write_text(text.replace('"target": "', '"target": " ', 1), encoding="utf-8")
    with pytest.raises(LogError, match=r"seismic_coords\.jsonl is not the file that the evaluation wrote"):
        read_samples([out / "tiny-1", out / "tiny-2"])
    lost.unlink()
    with pytest.raises(LogError, match=r"samples of task .vqa_scene.|is not the file"):
        read_samples([out / "tiny-1", out / "tiny-2"])
    left = [stage.job.name for stage, done in study_status(load_study(tiny_study), out) if not done]
    assert left == ["train tiny-1", "eval tiny-2"]  # tests/study/test_damage.py runs them


def test_a_changed_picture_beside_a_json_file_is_noticed(tiny_study: Path, tmp_path: Path) -> None:
    from PIL import Image

    from vlm_backbones.pipeline import plan_study
    from vlm_backbones.study import load_study

    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{colour}.png")
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"id": 0, "image": "red.png", "conversations": talk}]), encoding="utf-8")
    study = load_study(tiny_study, [f"data.finetune=[{rows}]"])

    def fingerprints() -> dict[str, str]:
        return {stage.job.name: stage.fingerprint for stage in plan_study(study, tmp_path / "out")}

    before = fingerprints()
    assert fingerprints() == before
    shutil.copy(tmp_path / "blue.png", tmp_path / "red.png")
    assert {name for name, mark in fingerprints().items() if mark == before[name]} == set()


def test_the_pocket_data_is_built_only_for_a_study_that_reads_it(tiny_study: Path, tmp_path: Path) -> None:
    from vlm_backbones.pipeline import plan_study
    from vlm_backbones.study import load_study

    def builds(*overrides: str) -> bool:
        study = load_study(tiny_study, overrides)
        return "data" in {stage.job.name for stage in plan_study(study, tmp_path)}

    assert not builds()  # it has data of its own for everything
    assert builds("data.eval=null")
    assert builds("data.finetune=[]", "tasks=[pope]")
    assert not builds("data.eval=null", "tasks=[pope, v7w]")
    assert builds("data.eval=null", "tasks=[backbone_study]")


def test_a_data_folder_of_the_shell_counts_only_for_a_study_that_reads_it(
    tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlm_backbones.pipeline import plan_study
    from vlm_backbones.study import load_study

    def fingerprints(*overrides: str) -> list[str]:
        return [stage.fingerprint for stage in plan_study(load_study(tiny_study, overrides), tmp_path)]

    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "rows.json").write_text("[]")
    named, opened = fingerprints(), fingerprints("data.eval=null")
    monkeypatch.setenv("VLM_BACKBONES_DATA", str(tmp_path / "more"))
    assert fingerprints() == named
    assert fingerprints("data.eval=null") != opened


def test_a_stage_that_fails_names_the_row_and_keeps_what_is_done(runs: Any, tmp_path: Path) -> None:
    rows = [{"id": 0, "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": " "}]}]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    done = runs.run(tmp_path / "out", "--set", f"data.finetune=[{tmp_path / 'rows.json'}]")
    assert done.returncode == 2
    assert "rows.json row 0: the answer is empty" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_finished_study_survives_a_cache_that_cannot_be_written(
    runs: Any, finished: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "no-folder").write_text("a file where the cache should be")
    done = runs.run(finished, cache=tmp_path / "no-folder")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The study is whole" in done.stderr


def test_a_part_of_a_study_does_not_write_into_another_studys_folder(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from vlm_backbones.pipeline import own_out
    from vlm_backbones.study import load_study

    monkeypatch.chdir(tmp_path)
    study = load_study(tiny_study)
    folder = tmp_path / "runs" / "tiny"
    assert own_out(study, None) == folder
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(study.model_dump_yaml(), encoding="utf-8")
    assert own_out(study, None) == folder
    changed = load_study(tiny_study, ["seeds=[1]"])
    with pytest.raises(ConfigError, match="with other values"):
        own_out(changed, None)
    assert own_out(changed, tmp_path / "elsewhere") == tmp_path / "elsewhere"

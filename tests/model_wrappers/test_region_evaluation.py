"""Region tasks and a user's own task through the real lmms-eval with a tiny checkpoint; ViP-Bench graded afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from vlm_backbones.analysis import read_samples
from vlm_backbones.data.imports.new_task import write_task
from vlm_backbones.model_wrappers import evaluate
from vlm_backbones.tasks import judge
from vlm_backbones.tasks.judge_files import read_grades, write_questions


def logged(folder: Path, task: str) -> list[dict[str, Any]]:
    (file,) = folder.rglob(f"*_samples_{task}.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.usefixtures("environment")
def test_the_region_group_runs_and_vip_bench_is_graded_later(
    checkpoint: Path, region_parts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_BACKBONES_REGION_DATA", str(region_parts.write_region_data(tmp_path / "regions")))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    judge._judge.cache_clear()
    out = tmp_path / "run"
    arguments = [str(checkpoint), "--tasks", "backbone_study_region", "--out", str(out), "--device", "cpu"]
    assert evaluate.main(arguments) == 0
    for task, count in (("v7w", 6), ("pointqa_looktwice", 5), ("vip_bench_bbox", 5), ("vip_bench_human", 5)):
        rows = logged(out, task)
        assert len(rows) == count
        assert all(row["token_counts"][0]["reasoning_tokens"]["image_key"] for row in rows)
    which = logged(out, "v7w")
    assert all(len(row["token_counts"][0]["reasoning_tokens"]["option_logprobs"]) == 4 for row in which)
    (results,) = out.rglob("*_results.json")
    numbers = json.loads(results.read_text())["results"]
    for task in ("v7w", "pointqa_looktwice"):
        shares = [row["accuracy"] for row in logged(out, task)]
        assert numbers[task]["accuracy,none"] == pytest.approx(sum(shares) / len(shares))
    assert numbers["vip_bench_bbox"]["judge_score,none"] != 0  # NaN: no judge answered
    assert all(row["judge_score"] is None for row in logged(out, "vip_bench_human"))
    assert write_questions(out / "logs", tmp_path / "judge") == len(
        {
            (row["input"], row["filtered_resps"][0])
            for kind in ("bbox", "human")
            for row in logged(out, f"vip_bench_{kind}")
        }
    )
    keys = [json.loads(line)["key"] for line in (tmp_path / "judge" / "questions.jsonl").read_text().splitlines()]
    grades = tmp_path / "grades.jsonl"
    grades.write_text("".join(json.dumps({"key": key, "grade": 0.5}) + "\n" for key in keys[:-1]))
    counts = read_grades(out / "logs", grades)
    assert (counts.graded + counts.ungraded, counts.unused) == (10, 0)
    assert counts.ungraded >= 1
    numbers = json.loads(results.read_text())["results"]
    assert numbers["vip_bench_bbox"]["judge_score,none"] == 0.5
    frame = read_samples([out])
    graded = frame.filter(frame["task"] == "vip_bench_bbox")["score"].drop_nulls()
    assert set(graded.to_list()) == {0.5}


@pytest.mark.usefixtures("environment")
def test_a_task_of_the_users_folder_runs(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for place, color in enumerate(("red", "blue", "lime")):
        Image.new("RGB", (16, 16), color).save(tmp_path / f"{place}.png")
        rows.append(
            {"image": f"{place}.png", "question": f"Which? {place}", "answer": color, "options": ["red", "blue"]}
        )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_task("my_colors", tmp_path / "rows.jsonl", tmp_path / "tasks" / "my_colors")
    monkeypatch.setenv("VLM_BACKBONES_TASKS", str(tmp_path / "tasks"))
    arguments = [str(checkpoint), "--tasks", "my_colors", "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert evaluate.main(arguments) == 0
    samples = logged(tmp_path / "run", "my_colors")
    assert [row["target"] for row in samples] == ["red", "blue", "lime"]
    assert all(len(row["token_counts"][0]["reasoning_tokens"]["option_logprobs"]) == 2 for row in samples)

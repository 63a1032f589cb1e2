"""Whole evaluations through lmms-eval: the command, its files, two processes, stock tasks."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, List, Value, load_from_disk
from PIL import Image as PILImage

from vlm_backbones.data.imports.new_task import write_task
from vlm_backbones.locks import LOCK, hold
from vlm_backbones.model_wrappers import _evaluation, evaluate

TASKS = ("vqa_scene", "seismic_description", "seismic_coords")


def run(checkpoint: Path, out: Path, *more: str, tasks: str = "backbone_study") -> int:
    return evaluate.main([str(checkpoint), "--tasks", tasks, "--out", str(out), "--device", "cpu", *more])


def samples(folder: Path, task: str) -> dict[str, dict[str, Any]]:
    """Return the logged samples of one task by their doc_key."""
    (file,) = folder.rglob(f"*_samples_{task}.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {row["token_counts"][0]["reasoning_tokens"]["doc_key"]: row for row in rows}


@pytest.mark.usefixtures("environment")
def test_a_run_is_evaluated_by_one_process(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_evaluation, "DYING_SECONDS", 0.1)
    with hold(tmp_path / "run"):
        assert run(checkpoint, tmp_path / "run", "--limit", "1") == 2
    assert f"error: another process is working in {tmp_path / 'run'}" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


@pytest.mark.usefixtures("environment")
def test_conditions_are_logged_with_the_same_doc_keys(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, tmp_path, "--conditions", "clean,swap,noise05,paraphrase", "--limit", "8") == 0
    clean = samples(tmp_path / "logs" / "clean", "vqa_scene")
    assert len(clean) == 8
    for condition in ("swap", "noise05", "paraphrase"):
        other = samples(tmp_path / "logs" / condition, "vqa_scene")
        assert set(other) == set(clean)
        assert {row["token_counts"][0]["reasoning_tokens"]["condition"] for row in other.values()} == {condition}
        assert any(other[key]["filtered_resps"] != clean[key]["filtered_resps"] for key in clean)
    for row in clean.values():
        extras = row["token_counts"][0]["reasoning_tokens"]
        assert (tmp_path / "media" / f"{extras['image_key']}.webp").is_file()
        assert set(row["backbones"]) == {"parsed", "score", "rungs", "question_type", "frame", "targets"}
    assert not list((tmp_path / "logs" / "paraphrase").rglob("*_samples_seismic_coords.jsonl"))
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert progress["step"] == progress["steps"] == 3 * 8 * 3 + 8
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    capsys.readouterr()
    assert run(checkpoint, tmp_path, "--conditions", "clean,swap,noise05,paraphrase", "--limit", "8") == 0
    assert capsys.readouterr().out.count("skipped.") == 6  # four conditions, two tasks without a second wording
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")} == before


@pytest.mark.usefixtures("environment")
def test_another_task_joins_and_another_limit_replaces(checkpoint: Path, tmp_path: Path) -> None:
    assert run(checkpoint, tmp_path, "--limit", "2", tasks="vqa_scene") == 0
    assert run(checkpoint, tmp_path, "--limit", "2", tasks="vqa_scene,seismic_coords") == 0
    done = json.loads((tmp_path / "logs" / "clean" / "done.json").read_text())
    assert {name: row["n"] for name, row in done["tasks"].items()} == {"vqa_scene": 2, "seismic_coords": 2}
    assert run(checkpoint, tmp_path, "--limit", "3", tasks="vqa_scene") == 0
    assert len(samples(tmp_path / "logs" / "clean", "vqa_scene")) == 3


@pytest.mark.usefixtures("environment")
def test_a_task_whose_files_or_rows_were_written_over_is_asked_again(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, rows = tmp_path / "own", [{"image": f"{i}.png", "question": "Colour?", "answer": "red"} for i in range(2)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for i in range(2):
        PILImage.new("RGB", (40, 40), (90 * i, 0, 0)).save(tmp_path / f"{i}.png")
    write_task("mine", tmp_path / "rows.json", own / "mine")
    monkeypatch.setenv("VLM_BACKBONES_TASKS", str(own))
    asked = shutil.copytree(data, tmp_path / "asked")
    monkeypatch.setenv("VLM_BACKBONES_DATA", str(asked))

    def is_asked_again() -> bool:
        capsys.readouterr()
        assert run(checkpoint, tmp_path / "run", "--limit", "2", tasks="mine,vqa_scene") == 0
        return "finished before" not in capsys.readouterr().out

    assert [is_asked_again(), is_asked_again()] == [True, False]
    (own / "mine" / "utils.py").write_text((own / "mine" / "utils.py").read_text() + "\n# another way to score\n")
    assert [is_asked_again(), is_asked_again()] == [True, False]
    (table,) = (asked / "vqa_scene" / "test").glob("*.arrow")
    content = table.read_bytes()
    question = load_from_disk(str(asked / "vqa_scene"))["test"][0]["question"].encode()
    table.write_bytes(content.replace(question, question.swapcase()))  # its fingerprint stands in another file
    assert [is_asked_again(), is_asked_again()] == [True, False]
    text = "".join(path.read_text() for path in (tmp_path / "run").rglob("*_samples_vqa_scene.jsonl"))
    assert question.swapcase().decode() in text


@pytest.mark.usefixtures("environment")
def test_logs_of_something_else_are_never_removed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "logs" / "clean" / "mine_samples_vqa_scene.jsonl"
    precious.parent.mkdir(parents=True)
    precious.write_text("{}")
    assert run(checkpoint, tmp_path, "--limit", "1", tasks="vqa_scene") == 2
    assert "did not write" in capsys.readouterr().err
    assert precious.read_text() == "{}"


@pytest.mark.usefixtures("environment")
def test_a_shorter_log_never_replaces_a_longer_one(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, tmp_path, "--limit", "3", tasks="vqa_scene") == 0
    assert run(checkpoint, tmp_path, "--limit", "2", tasks="vqa_scene") == 2
    assert "would replace them" in capsys.readouterr().err
    assert len(samples(tmp_path / "logs" / "clean", "vqa_scene")) == 3


@pytest.mark.usefixtures("environment")
def test_what_the_user_can_mend_exits_2(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(checkpoint, tmp_path, tasks="vqa_scenes") == 2
    assert "Did you mean 'vqa_scene'" in capsys.readouterr().err
    assert run(tmp_path / "nothing", tmp_path) == 2
    assert "no checkpoint in" in capsys.readouterr().err
    monkeypatch.setenv("VLM_BACKBONES_DATA", str(tmp_path / "nowhere"))
    assert run(checkpoint, tmp_path, tasks="vqa_scene") == 2
    assert "no dataset of task 'vqa_scene'" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


@pytest.mark.usefixtures("environment")
def test_a_broken_chat_template_exits_2(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    (copy / "chat_template.jinja").write_text("{% for m in messages %}{{ m")
    assert run(copy, tmp_path, "--limit", "2", tasks="vqa_scene") == 2
    error = capsys.readouterr().err
    assert f"error: {copy}: the chat template cannot be rendered (unexpected end of template" in error
    assert "Traceback" not in error


@pytest.mark.usefixtures("environment")
def test_a_failed_request_fails_the_run_and_leaves_nothing_done(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, stream = tmp_path / "broken", io.BytesIO()
    PILImage.effect_noise((64, 64), 50).save(stream, "PNG")
    features = Features({
        "image": Image(), "latitude": Value("float64"), "longitude": Value("float64"), "frame": Value("string"),
    })  # fmt: skip
    split = broken / "seismic_coords" / "test"
    monkeypatch.setenv("VLM_BACKBONES_DATA", str(broken))
    for picture, message in (
        (b"no picture", f"error: {split} row 1: the image is corrupt or no picture (cannot identify image file)."),
        (stream.getvalue()[:200], "error: task 'seismic_coords', split 'test', row 1: "),
    ):
        row = {"latitude": 1.0, "longitude": 2.0, "frame": "x"}
        rows = [{"image": {"bytes": data, "path": None}, **row} for data in (stream.getvalue(), picture)]
        Dataset.from_list(rows, features=features).save_to_disk(str(split))
        assert run(checkpoint, tmp_path / "out", tasks="seismic_coords") == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
    assert not list((tmp_path / "out").rglob("done.json"))


@pytest.mark.usefixtures("environment")
def test_two_processes_log_what_one_does(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    assert run(checkpoint, tmp_path / "one", "--limit", "9", tasks="vqa_scene") == 0
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "-m", "lmms_eval", "--model", "backbone_vlm", "--model_args", f"pretrained={checkpoint}",
        "--tasks", "vqa_scene", "--batch_size", "4", "--limit", "9", "--log_samples",
        "--output_path", str(tmp_path / "two"),
    ]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    one, two = samples(tmp_path / "one", "vqa_scene"), samples(tmp_path / "two", "vqa_scene")
    assert len(one) == 9
    assert set(one) == set(two)
    for key, row in one.items():
        a, b = row["token_counts"][0]["reasoning_tokens"], two[key]["token_counts"][0]["reasoning_tokens"]
        assert row["filtered_resps"] == two[key]["filtered_resps"]
        assert a["logprob"] == pytest.approx(b["logprob"], abs=1e-4)
        assert (a["option_logprobs"] or {}) == pytest.approx(b["option_logprobs"] or {}, abs=1e-4)


STOCK = {
    "mme": {
        "split": "test", "options": ["Yes", "No"],
        "row": {"question_id": "code_reasoning/{i}.png", "question": "Is it {i}? Please answer yes or no.",
                "answer": "Yes", "category": "code_reasoning"},
    },
    "pope": {
        "split": "test", "options": ["Yes", "No"],
        "row": {"id": "{i}", "question_id": "{i}", "question": "Is there a cat {i}?", "answer": "yes",
                "image_source": "x", "category": "random"},
    },
    "scienceqa_img": {
        "split": "test", "options": ["A", "B"],
        "row": {"question": "Which {i}?", "choices": ["one", "two"], "answer": 0, "hint": ""},
    },
    "mmbench_en_dev_static": {
        "split": "dev", "options": ["A", "B"],
        "row": {"index": 0, "question": "Which {i}?", "hint": "nan", "answer": "A", "A": "one", "B": "two",
                "C": "nan", "D": "nan", "category": "c", "L2-category": "l", "source": "s", "split": "dev"},
    },
}  # fmt: skip


@pytest.mark.usefixtures("environment")
def test_stock_tasks_run_on_local_folders_with_options(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks.mmbench import en_utils
    from PIL import Image as PILImage

    monkeypatch.chdir(tmp_path)  # mmbench writes its submission files where it stands
    configs = []
    for name, stock in STOCK.items():
        rows = [
            {key: value.format(i=i // 2) if isinstance(value, str) else value for key, value in stock["row"].items()}
            | {"image": PILImage.new("RGB", (40, 40), (40 * i, 0, 0))}
            | ({"index": i} if "index" in stock["row"] else {})
            for i in range(4)
        ]
        features = Features({key: stock_feature(key, value) for key, value in rows[0].items()})
        (tmp_path / name / "data").mkdir(parents=True)
        file = tmp_path / name / "data" / f"{stock['split']}-00000-of-00001.parquet"
        Dataset.from_list(rows, features=features).to_parquet(str(file))
        configs.append({
            "task": name, "dataset_path": str(tmp_path / name), "dataset_name": None, "dataset_kwargs": None,
            "generation_kwargs": {"max_new_tokens": 4, "until": ["ASSISTANT:"]},
        })  # fmt: skip
    # Its second metric writes a spreadsheet, which takes no control characters: a random model answers with some.
    aggregation = en_utils.mmbench_aggregate_dev_results_static
    configs[-1]["metric_list"] = [{"metric": "gpt_eval_score", "aggregation": aggregation, "higher_is_better": True}]
    results = simple_evaluate(
        model="backbone_vlm", model_args=f"pretrained={checkpoint}", tasks=configs, batch_size=3, device="cpu",
        log_samples=True, bootstrap_iters=0, verbosity="ERROR",
    )  # fmt: skip
    for name, stock in STOCK.items():
        assert len(results["samples"][name]) == 4
        for sample in results["samples"][name]:
            extras = sample["token_counts"][0]["reasoning_tokens"]
            assert list(extras["option_logprobs"]) == stock["options"]
            assert extras["image_key"] is not None


def stock_feature(key: str, value: Any) -> Any:
    if key == "image":
        return Image()
    if isinstance(value, list):
        return List(Value("string"))
    return Value("string" if isinstance(value, str) else "int64")

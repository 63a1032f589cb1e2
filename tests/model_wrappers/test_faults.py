"""What goes wrong in the middle of an evaluation: no room, a task's own defect, answers of other weights in a cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from safetensors.torch import load_file, save_file

from vlm_backbones._study_loading import package_folder
from vlm_backbones.model_wrappers import evaluate


def run(checkpoint: Path, out: Path, *more: str, tasks: str = "vqa_scene") -> int:
    return evaluate.main([str(checkpoint), "--tasks", tasks, "--out", str(out), "--device", "cpu", *more])


def samples(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.rglob("*_samples_vqa_scene.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [{key: row[key] for key in ("doc_id", "filtered_resps", "token_counts", "backbones")} for row in rows]


@pytest.mark.usefixtures("environment")
def test_a_full_disk_is_one_message_and_the_evaluation_is_repeated_when_there_is_room(
    checkpoint: Path, tmp_path: Path, small_disk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logs, pictures and hidden states are written where there is no room for all of them."""
    more = ("--limit", "6", "--states", "last_prompt+image_mean", "--layers", "all")
    assert run(checkpoint, tmp_path / "undisturbed", *more) == 0
    capsys.readouterr()
    failures = []
    for kilobytes in (8, 20, 32, 48, 72, 4096):
        small_disk.grow(kilobytes)
        if run(checkpoint, small_disk.folder / "out", *more) == 0:
            break
        failures.append(capsys.readouterr().err)
        assert not list(small_disk.folder.rglob("done.json"))
    assert len(failures) >= 3
    for message in failures:
        assert "ree space" in message, message
        assert "Traceback" not in message
    assert samples(small_disk.folder / "out" / "logs") == samples(tmp_path / "undisturbed" / "logs")


@pytest.mark.usefixtures("environment")
def test_a_task_that_fails_exits_with_1_where_lmms_eval_says_0(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tasks" / "broken"
    folder.mkdir(parents=True)
    stock = (package_folder("vlm_backbones.tasks") / "vqa_scene" / "vqa_scene.yaml").read_text(encoding="utf-8")
    scorer = "vlm_backbones.tasks.vqa_scene.utils.process_results"
    broken = stock.replace("task: vqa_scene", "task: broken_scene").replace(scorer, "utils.process_results")
    (folder / "broken_scene.yaml").write_text(broken, encoding="utf-8")
    (folder / "utils.py").write_text("def process_results(doc, results):\n    return 1 / 0\n", encoding="utf-8")
    monkeypatch.setenv("VLM_BACKBONES_TASKS", str(tmp_path / "tasks"))
    assert run(checkpoint, tmp_path / "out", "--limit", "2", tasks="broken_scene") == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("done.json"))


@pytest.mark.usefixtures("environment")
def test_the_response_cache_never_answers_for_other_weights(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that is trained again at the same path, asked with `--use_cache`."""
    monkeypatch.chdir(tmp_path)
    place, cache = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint")), tmp_path / "responses"

    def logprobs() -> list[float]:
        found = simple_evaluate(
            model="backbone_vlm", model_args=f"pretrained={place},device=cpu", tasks=["vqa_scene"], limit=4,
            task_manager=TaskManager("ERROR", include_defaults=False), use_cache=str(cache), log_samples=True,
            bootstrap_iters=0, verbosity="ERROR",
        )  # fmt: skip
        rows = sorted(found["samples"]["vqa_scene"], key=lambda row: row["doc_id"])
        return [row["token_counts"][0]["reasoning_tokens"]["logprob"] for row in rows]

    first = logprobs()
    assert list(cache.rglob("*.db"))
    assert logprobs() == first
    weights = {
        name: value + 0.05 * torch.ones_like(value) for name, value in load_file(place / "model.safetensors").items()
    }
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    assert all(new != old for new, old in zip(logprobs(), first, strict=True))

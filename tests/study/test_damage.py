"""Whatever is damaged in a finished study is named and made again, though its times say that nothing was written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vlm_backbones._display import StudyDisplay
from vlm_backbones._fingerprints import hash_of
from vlm_backbones.analysis.log_files import find_logs
from vlm_backbones.errors import ConfigError, LogError
from vlm_backbones.hashes import file_sha256, sealed_json
from vlm_backbones.pipeline import run_study, study_status
from vlm_backbones.study import load_study
from vlm_backbones.trained_runs import check_trained_runs
from vlm_backbones.vlm import checkpoint_fingerprint


@pytest.fixture
def out(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(finished, tmp_path / "out"))


def keeping_times(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        times = path.stat()
        path.write_bytes(change(path.read_bytes()))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    return rewrite


flip = keeping_times(
    lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
)
cut = keeping_times(lambda data: data[:100])
remove = Path.unlink


def exchange_digit(path: Path) -> None:
    """Another value in a file that stays valid JSON."""
    keeping_times(lambda data: data.replace(b"0", b"1", 1))(path)


DAMAGE = [
    ("certificate.json", cut, "check"),
    ("certificate.json", exchange_digit, "check"),
    ("tiny-1/run.json", cut, "train tiny-1"),
    ("tiny-1/run.json", exchange_digit, "train tiny-1"),
    ("tiny-1/checkpoint/seal.json", remove, "train tiny-1"),
    ("tiny-1/checkpoint/seal.json", cut, "train tiny-1"),
    ("tiny-1/checkpoint/chat_template.jinja", flip, "train tiny-1"),
    ("tiny-1/checkpoint/model.safetensors", flip, "train tiny-1"),
    ("tiny-2/finetune/trainable.safetensors", flip, "train tiny-2"),
    ("tiny-2/finetune/stage.json", cut, "train tiny-2"),
    ("tiny-1/logs/clean/done.json", cut, "eval tiny-1"),
    ("tiny-1/logs/clean/done.json", exchange_digit, "eval tiny-1"),
    ("tiny-1/logs/swap/*/*_samples_vqa_scene.jsonl", flip, "eval tiny-1"),
    ("tiny-1/logs/swap/*/*_results.json", cut, "eval tiny-1"),
    ("tiny-2/states/noise05/vqa_scene-rank0-00000.safetensors", flip, "eval tiny-2"),
    ("tiny-2/states/random_weights/vqa_scene-rank0-00000.safetensors", remove, "eval tiny-2"),
    ("tiny-2/media/*.webp", cut, "eval tiny-2"),
    ("tables/agreement.csv", remove, "analyze"),
    ("tables/scores.csv", flip, "analyze"),
    ("tables/agreement.parquet", cut, "analyze"),
    ("verdict.txt", flip, "analyze"),
    ("report.html", cut, "analyze"),
    ("charts/*.svg", cut, "analyze"),
    ("report_data/task-0.js", flip, "analyze"),
    (".seal.json", cut, "analyze"),
]


@pytest.fixture
def left(tiny_study: Path, out: Path) -> Callable[[], list[str]]:
    """What a study has left to do, and what of each finished stage is lost."""
    study = load_study(tiny_study)
    return lambda: [
        f"{stage.job.name}: {', '.join(path.relative_to(out).as_posix() for path in stage.lost)}"
        for stage, done in study_status(study, out)
        if not done
    ]


def test_every_damage_is_seen_and_named(out: Path, finished: Path, left: Callable[[], list[str]]) -> None:
    assert left() == []
    for pattern, damage, stage in DAMAGE:
        path = sorted(out.glob(pattern))[0]
        damage(path)
        assert left() == [f"{stage}: {path.relative_to(out).as_posix()}"], (pattern, damage)
        shutil.copy2(finished / path.relative_to(out), path)
    assert left() == []


def test_logs_that_another_run_answered_are_asked_again_and_not_analyzed(
    tiny_study: Path, out: Path, left: Callable[[], list[str]]
) -> None:
    for name in ("logs", "states", "media"):
        (out / "tiny-1" / name).rename(out / "moved")
        (out / "tiny-2" / name).rename(out / "tiny-1" / name)
        (out / "moved").rename(out / "tiny-2" / name)
    conditions, runs = load_study(tiny_study).conditions(), ("tiny-1", "tiny-2")
    logs = [[f"{run}/logs/{condition}/done.json" for condition in conditions] for run in runs]
    evaluations = [f"eval {run}: {', '.join(own)}" for run, own in zip(runs, logs, strict=True)]
    assert left() == [*evaluations, f"analyze: {', '.join([*logs[0], *logs[1]])}"]
    with pytest.raises(
        LogError, match=r"tiny-1/logs/.*done\.json: another checkpoint answered than the one in .*tiny-1"
    ):
        find_logs([out])
    shutil.rmtree(out / "tiny-1" / "checkpoint")  # a folder of logs alone is nobody's
    (out / "tiny-2" / "checkpoint" / "seal.json").unlink()
    assert find_logs([out])


def test_a_run_of_another_study_is_neither_written_over_nor_analyzed(
    tiny_study: Path, out: Path, left: Callable[[], list[str]]
) -> None:
    """As copied from a study that is the same but for its learning rate."""
    path = out / "tiny-1" / "run.json"
    content = json.loads(path.read_text())
    content["facts"]["recipe"]["finetune"]["learning_rate"] *= 2
    path.write_text(sealed_json(content | {"fingerprint": hash_of(content["facts"])}))
    assert left()[0] == "train tiny-1: tiny-1/run.json"
    study, stated = load_study(tiny_study), (out / "study.yaml").read_text()
    with pytest.raises(ConfigError, match=r"tiny-1 was not trained by the study's recipe: finetune\.learning_rate is"):
        check_trained_runs(study, out)
    with (
        StudyDisplay(Console(quiet=True)) as display,
        pytest.raises(ConfigError, match=r"never overwritten:\n- tiny-1 was not trained by .*\nName another folder"),
    ):
        run_study(study.model_copy(update={"seeds": [0, 1]}), out, display)
    assert (out / "study.yaml").read_text() == stated


def test_what_a_judge_or_an_evaluation_by_hand_changed_is_analysed_again_once(
    runs: Any, out: Path, left: Callable[[], list[str]]
) -> None:
    done = out / "tiny-1" / "logs" / "clean" / "done.json"
    content = json.loads(done.read_text())
    row = content["tasks"]["vqa_scene"]
    log = done.parent / row["samples"]
    log.write_bytes(log.read_bytes() + b"\n")  # as with grades: the same answers, another file
    row["sha256"] = file_sha256(log)
    done.write_text(sealed_json(content))
    assert left() == ["analyze: tiny-1/logs/clean/done.json"]
    again = runs.run(out)
    assert again.returncode == 0, again.stdout + again.stderr
    assert left() == []
    row["data"] += " of fewer documents"
    done.write_text(sealed_json(content))
    assert left() == ["eval tiny-1: tiny-1/logs/clean/done.json", "analyze: tiny-1/logs/clean/done.json"]
    again = runs.run(out)
    assert again.returncode == 0, again.stdout + again.stderr
    assert left() == []


def test_what_a_user_adds_or_frees_is_no_damage(out: Path, left: Callable[[], list[str]]) -> None:
    for name in ("tables", "charts", "report_data", "tiny-1/media", "tiny-1", "tiny-1/logs/clean", "tiny-1/checkpoint"):
        (out / name / "notes.md").write_text("mine")
    (out / "tables" / "notes.csv").write_text("a,b")
    (out / "tiny-1" / "checkpoint" / "README.md").write_text("a remark")
    (out / "tiny-1" / "checkpoint" / "notes.txt").write_text("a file that a later evaluation counts")
    done = out / "tiny-1" / "logs" / "clean" / "done.json"
    done.write_text(
        sealed_json(
            json.loads(done.read_text()) | {"checkpoint": checkpoint_fingerprint(out / "tiny-1" / "checkpoint")}
        )
    )
    shutil.rmtree(out / "tiny-1" / "align")  # the checkpoint holds what it trained
    assert left() == []


def test_files_of_earlier_versions_stay_valid(out: Path, left: Callable[[], list[str]]) -> None:
    """They tell no hash of themselves, of states and pictures, or of the seal; a log's may be missing too."""
    for path in [out / "certificate.json", *out.glob("*/run.json"), *out.glob("*/logs/*/done.json")]:
        content = json.loads(path.read_text())
        for key in ("own_sha256", "seal"):
            content.pop(key, None)
        for row in content.get("tasks", {}).values():
            del row["files"], row["sha256"]
        path.write_text(json.dumps(content))
    for path in [*out.glob("*/*/stage.json"), *out.glob(".stages/*.json")]:
        path.write_text(json.dumps({"fingerprint": json.loads(path.read_text())["fingerprint"]}))
    assert left() == []


def test_the_next_run_names_what_was_damaged_makes_it_again_and_ends(runs: Any, out: Path, finished: Path) -> None:
    (out / ".stages" / "analyze.json").unlink()
    damaged = {
        "tiny-1/checkpoint/seal.json": remove,
        "tiny-1/finetune/trainable.safetensors": flip,
        "tiny-1/logs/clean/done.json": cut,
        "tiny-1/states/swap/vqa_scene-rank0-00000.safetensors": flip,
        "tiny-2/logs/noise05/*/*_samples_seismic_coords.jsonl": flip,
        "tiny-2/logs/clean/*/*_samples_vqa_scene.jsonl": remove,
        "tiny-2/checkpoint/model.safetensors": flip,
        "tiny-2/states/random_weights/seismic_coords-rank0-00000.safetensors": remove,
        "tiny-2/media/*.webp": cut,
        "certificate.json": cut,
        "tables/scores.csv": flip,
    }
    names = [sorted(out.glob(pattern))[0].relative_to(out) for pattern in damaged]
    for name, damage in zip(names, damaged.values(), strict=True):
        damage(out / name)
    done = runs.run(out)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in names[:-1]:  # nothing says of which analysis the table is
        assert str(out / name) in done.stderr
    weights = out / "tiny-2" / "checkpoint" / "model.safetensors"
    assert f"{weights}: gone or damaged, written again" in (out / "tiny-2" / "train.log").read_text(encoding="utf-8")
    assert runs.tables(out) == runs.tables(finished)
    for name in names:
        if name.suffix in (".webp", ".csv") or name.name in ("trainable.safetensors", "model.safetensors"):
            assert (out / name).read_bytes() == (finished / name).read_bytes()
    assert "started" not in runs.run(out).stdout


def test_a_damaged_picture_is_drawn_again_without_an_answer(runs: Any, out: Path, finished: Path) -> None:
    picture = sorted(out.glob("tiny-1/media/*.webp"))[0]
    cut(picture)
    logs = {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")}
    done = runs.run(out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{picture}: gone or damaged, drawn again" in (out / "tiny-1" / "eval.log").read_text()
    assert picture.read_bytes() == (finished / picture.relative_to(out)).read_bytes()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")} == logs

"""Training end to end on tiny parts: the run folder, resume after a kill, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from vlm_backbones.data.feature_probe import FeatureProbe
from vlm_backbones.locks import LOCK
from vlm_backbones.train import features, finetune
from vlm_backbones.train.trainer import BackboneTrainer
from vlm_backbones.vlm import load


def write_study(tiny_parts: ModuleType, parts: Path, folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tiny_parts.study_text(parts, **changes)), encoding="utf-8")
    return path


def arguments(study: Path, parts: Path, out: Path) -> list[str]:
    return ["--study", str(study), "--backbone", str(parts / "backbone"), "--out", str(out), "--threads", "1"]


@pytest.fixture(scope="module")
def run_dir(tiny_parts: ModuleType, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    assert finetune.main(arguments(write_study(tiny_parts, parts, folder, steps=10), parts, folder / "out")) == 0
    return folder / "out" / "backbone"


def test_a_run_holds_its_checkpoint_metrics_and_record_and_no_trainer_checkpoints(run_dir: Path) -> None:
    assert sorted(path.name for path in run_dir.iterdir() if path.name != LOCK) == [
        "align", "checkpoint", "finetune", "metrics.jsonl", "progress.json", "run.json",
    ]  # fmt: skip
    assert sorted(path.name for path in (run_dir / "finetune").iterdir()) == [
        "fingerprint", "stage.json", "trainable.safetensors",
    ]  # fmt: skip
    record = json.loads((run_dir / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["stages"]["finetune"]["examples_seen"] == 40
    assert len(record["stages"]["finetune"]["order_sha256"]) == 64
    assert record["data_wait_share"].keys() == record["seconds"].keys() == {"align", "finetune"}
    assert all(0 <= share < 1 for share in record["data_wait_share"].values())
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {"align", "finetune"}
    assert set(rows[0]) == {"stage", "step", "loss", "lr", "grad_norm", "tokens", "seconds"}
    losses = [row["loss"] for row in rows if row["stage"] == "finetune"]
    assert losses[-1] < losses[0]


def test_supervised_tokens_alone_have_logits_and_one_kernel_updates_the_weights(
    tiny_parts: ModuleType, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_loss, met = BackboneTrainer.compute_loss, list[tuple[int, int, int]]()
    heads, optimizers = list[tuple[int, ...]](), list[Any]()

    def watched(self: BackboneTrainer, model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> Any:
        met.append((1, len(inputs["labels"]), model.lm_head.out_features))
        assert len(inputs["labels"]) < inputs["input_ids"].shape[1]
        optimizers.append(self.optimizer.optimizer)
        hook = model.lm_head.register_forward_hook(lambda head, given, logits: heads.append(tuple(logits.shape)))
        try:
            return compute_loss(self, model, inputs, *more, **named)
        finally:
            hook.remove()

    monkeypatch.setattr(BackboneTrainer, "compute_loss", watched)
    # Liger's loss makes no logits at all.
    monkeypatch.setattr("vlm_backbones.train.stage.has_fused_loss", lambda recipe: False)
    study = write_study(tiny_parts, parts, tmp_path, steps=2)
    assert finetune.main(arguments(study, parts, tmp_path / "out")) == 0
    assert len(heads) == 4  # a pass a step, of two stages
    assert heads == met
    assert {type(optimizer) for optimizer in optimizers} == {torch.optim.AdamW}
    assert all(group["fused"] for optimizer in optimizers for group in optimizer.param_groups)


def test_align_trains_the_projector_only_and_the_tower_never_changes(run_dir: Path, parts: Path) -> None:
    names = load_file(run_dir / "align" / "trainable.safetensors")
    assert all("multi_modal_projector" in name for name in names)
    model, _ = load(run_dir / "checkpoint")
    before = load_file(parts / "tower" / "model.safetensors")
    after = {f"vision_model.{name}": value for name, value in model.model.vision_tower.state_dict().items()}
    shared = [name for name in before if name in after]
    assert shared or "vision_model" not in next(iter(before))
    assert all(torch.equal(before[name], after[name]) for name in shared)


def test_the_checkpoint_reads_raw_features_as_training_read_standardised_ones(run_dir: Path) -> None:
    model, _ = load(run_dir / "checkpoint")
    trained = load_file(run_dir / "finetune" / "trainable.safetensors")
    meta = json.loads(next((run_dir.parent / "features").glob("*/meta.json")).read_text())
    features = torch.randn(3, 32)
    standard = (features - torch.tensor(meta["mean"])) / torch.tensor(meta["std"])
    name = "model.multi_modal_projector.linear_1"
    wanted = standard @ trained[f"{name}.weight"].T + trained[f"{name}.bias"]
    assert torch.allclose(model.model.multi_modal_projector.linear_1(features), wanted, atol=1e-4)


def test_a_finished_run_is_skipped_and_never_overwritten(
    run_dir: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = (run_dir / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    content = yaml.safe_load((run_dir.parent.parent / "study.yaml").read_text())
    path = tmp_path / "study.yaml"

    def train(**changes: Any) -> int:
        stage = content["recipe"]["finetune"]
        path.write_text(yaml.safe_dump({**content, "recipe": {**content["recipe"], "finetune": {**stage, **changes}}}))
        return finetune.main(arguments(path, parts, run_dir.parent))

    assert train() == 0
    assert train(micro_batch_size=1) == 0  # nothing that is learned depends on it
    assert "finished already" in capsys.readouterr().out
    assert train(learning_rate=0.5, steps=3) == 2
    told = capsys.readouterr().err
    assert f"error: {run_dir} holds finished training, which is never overwritten, of other content: " in told
    assert "finetune.steps is 10, not 3; finetune.learning_rate is 0.01, not 0.5. Choose another --out" in told
    monkeypatch.setattr(finetune, "VERSION", finetune.VERSION + 1)
    assert train() == 2
    assert "of other content: the training code's VERSION. Choose" in capsys.readouterr().err
    assert (run_dir / "checkpoint" / "model.safetensors").stat().st_mtime_ns == written


def test_killed_and_resumed_training_gives_the_same_bits(
    run_dir: Path, tiny_parts: ModuleType, parts: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "vlm_backbones.train.finetune"]
    command += arguments(run_dir.parent.parent / "study.yaml", parts, tmp_path / "out")
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    folder = tmp_path / "out" / "backbone" / "finetune"
    deadline = time.monotonic() + 120
    while process.poll() is None and not list(folder.glob("checkpoint-*/seal.json")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(folder.glob("checkpoint-*")), "the run finished before it could be killed"
    assert finetune.main(arguments(run_dir.parent.parent / "study.yaml", parts, tmp_path / "out")) == 0
    resumed = load_file(tmp_path / "out" / "backbone" / "checkpoint" / "model.safetensors")
    straight = load_file(run_dir / "checkpoint" / "model.safetensors")
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    steps = [json.loads(line)["step"] for line in (tmp_path / "out/backbone/metrics.jsonl").read_text().splitlines()]
    assert steps == [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_is_asked_to_end_saves_its_step_and_goes_on_from_it(
    run_dir: Path, parts: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "vlm_backbones.train.finetune"]
    command += arguments(run_dir.parent.parent / "study.yaml", parts, tmp_path / "out")
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "out" / "backbone" / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and '"finetune"' in metrics.read_text()):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 143
    step = int(said.split("after step ")[1].split(",")[0])
    assert (tmp_path / "out" / "backbone" / "finetune" / f"checkpoint-{step}" / "seal.json").is_file()
    assert finetune.main(arguments(run_dir.parent.parent / "study.yaml", parts, tmp_path / "out")) == 0
    resumed = load_file(tmp_path / "out" / "backbone" / "checkpoint" / "model.safetensors")
    straight = load_file(run_dir / "checkpoint" / "model.safetensors")
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_two_processes_train_as_one_does(run_dir: Path, parts: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "vlm_backbones.train.finetune"]
    command += arguments(run_dir.parent.parent / "study.yaml", parts, tmp_path / "out")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    def losses(folder: Path) -> list[float]:
        return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]

    assert losses(tmp_path / "out" / "backbone") == pytest.approx(losses(run_dir), abs=1e-4)
    record, alone = (json.loads((folder / "run.json").read_text()) for folder in (tmp_path / "out/backbone", run_dir))
    assert record["state"] == "finished"
    assert record["stages"]["finetune"]["order_sha256"] == alone["stages"]["finetune"]["order_sha256"]


def test_a_full_disk_is_one_message_and_training_continues_when_there_is_room(
    run_dir: Path, parts: Path, small_disk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    command, failures = arguments(run_dir.parent.parent / "study.yaml", parts, small_disk.folder / "out"), []
    for kilobytes in (16, 48, 96, 160, 256, 512, 1024, 4096):
        small_disk.grow(kilobytes)
        if finetune.main(command) == 0:
            break
        failures.append(capsys.readouterr().err)
        assert not list(small_disk.folder.rglob("*.partial"))
    assert len(failures) > 2
    assert all("ree space" in message for message in failures)
    checkpoint = small_disk.folder / "out" / "backbone" / "checkpoint"
    resumed, straight = load_file(checkpoint / "model.safetensors"), load_file(run_dir / "checkpoint/model.safetensors")
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_lora_adapts_the_language_model_only_and_is_merged(tiny_parts: ModuleType, parts: Path, tmp_path: Path) -> None:
    stage = tiny_parts.study_text(parts, steps=3)["recipe"]["finetune"]
    recipe = {"finetune": {**stage, "lora": {"r": 2, "alpha": 4, "dropout": 0.1}}}
    study = write_study(tiny_parts, parts, tmp_path, recipe=recipe)
    assert finetune.main(arguments(study, parts, tmp_path / "out")) == 0
    model, _ = load(tmp_path / "out" / "backbone" / "checkpoint")
    start = load_file(parts / "backbone" / "model.safetensors")
    after = model.model.language_model.state_dict()
    assert not any("lora" in name for name in model.state_dict())
    assert not torch.equal(after["layers.0.mlp.up_proj.weight"], start["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(after["embed_tokens.weight"], start["model.embed_tokens.weight"])


def test_weights_that_explode_are_never_saved_and_the_rows_of_the_step_are_named(
    tiny_parts: ModuleType, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = {**tiny_parts.study_text(parts, steps=6)["recipe"]["finetune"], "learning_rate": 1e30, "warmup_steps": 0}
    study = write_study(tiny_parts, parts, tmp_path, recipe={"finetune": stage})
    assert finetune.main(arguments(study, parts, tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert "at step 2 of finetune, on " in error
    assert error.count("/train row ") == 4  # the step's examples
    assert "Last good checkpoint: none, it was too early" in error
    assert not (tmp_path / "out" / "backbone" / "checkpoint").exists()
    record = json.loads((tmp_path / "out" / "backbone" / "run.json").read_text())
    assert record["state"] == "failed"
    assert "at step 2" in record["error"]
    assert "lower the recipe's learning_rate" in error


def test_a_trial_that_explodes_names_the_sweeps_rate(
    tiny_parts: ModuleType, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = {**tiny_parts.study_text(parts, steps=2)["recipe"]["finetune"], "warmup_steps": 0}
    sweep = {"learning_rate": [1e-3, 1e30]}
    study = write_study(tiny_parts, parts, tmp_path, recipe={"finetune": stage}, sweep=sweep)
    assert finetune.main([*arguments(study, parts, tmp_path / "out"), "--learning-rate", "1e30"]) == 2
    error = capsys.readouterr().err
    assert "take 1e+30 out of the study's sweep.learning_rate" in error
    assert "recipe's" not in error


@pytest.mark.parametrize(
    ("budget", "probe", "choice"),
    [
        ("0", FeatureProbe(1.0, 0.0, True, 1), "not cached (larger than VLM_BACKBONES_FEATURE_CACHE_GB)"),
        ("8", FeatureProbe(1.0, 2.0, True, 1), "not cached"),
        (
            "8",
            FeatureProbe(1.0, 2.0, False, 1),
            "cached (not by these times: computed in training they would have other last digits)",
        ),
    ],
    ids=["beyond the budget", "faster to compute", "faster to compute with other bits"],
)
def test_features_that_are_cached_and_those_that_are_not_train_the_same_bits(
    run_dir: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    budget: str, probe: FeatureProbe, choice: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("VLM_BACKBONES_FEATURE_CACHE_GB", budget)
    monkeypatch.setattr(features, "probe_features", lambda *given: probe)
    study = run_dir.parent.parent / "study.yaml"
    assert finetune.main(arguments(study, parts, tmp_path / "out")) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("features: "))
    # two stages of ten steps of four, whose every example has a picture
    assert said.startswith("features: 1000.0 ms a picture to compute, ")
    assert said.endswith(f"; 14 pictures, read 80 times: {choice}")
    is_cached = choice.startswith("cached")
    assert bool(list((tmp_path / "out" / "features").glob("*/states.npy"))) == is_cached
    record, usual = (
        json.loads((folder / "run.json").read_text())["features"] for folder in (tmp_path / "out/backbone", run_dir)
    )
    assert record["align"] == record["finetune"] == {"is_cached": is_cached, **asdict(probe)}
    assert usual["align"]["is_cached"]
    assert usual["align"]["is_same_alone"]
    streamed = load_file(tmp_path / "out" / "backbone" / "checkpoint" / "model.safetensors")
    straight = load_file(run_dir / "checkpoint" / "model.safetensors")
    assert all(torch.equal(streamed[name], straight[name]) for name in straight)


def test_a_cache_budget_that_is_no_number_is_named(
    run_dir: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLM_BACKBONES_FEATURE_CACHE_GB", "abc")
    assert finetune.main(arguments(run_dir.parent.parent / "study.yaml", parts, tmp_path / "out")) == 2
    assert "VLM_BACKBONES_FEATURE_CACHE_GB='abc' is no number" in capsys.readouterr().err

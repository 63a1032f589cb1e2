"""Processes that share a model's weights train it as one process does: curve, data and weights, after a kill too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from vlm_backbones._estimate import estimate_study
from vlm_backbones._launch import accelerate_config, launch_command
from vlm_backbones.study import ExpectedData, load_study
from vlm_backbones.train import finetune
from vlm_backbones.train.weights import lower_frozen_layers, working_copy
from vlm_backbones.vlm import compose, load


@pytest.fixture(scope="module")
def study(tiny_parts: ModuleType, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Projector, then all weights (recomputed activations, micro-batches without image), then adapters in bf16."""
    folder = tmp_path_factory.mktemp("study")
    talk = [{"from": "human", "value": "Is a star round?"}, {"from": "gpt", "value": "no"}]
    (folder / "text.json").write_text(json.dumps([{"id": number, "conversations": talk} for number in range(16)]))
    stage = {**tiny_parts.study_text(parts, steps=3)["recipe"]["finetune"], "micro_batch_size": 1}
    stage |= {"batch_grouping": "none"}
    whole = {**stage, "steps": 8, "gradient_checkpointing": True}
    adapters = {**stage, "precision": "bf16", "lora": {"r": 2, "alpha": 4, "dropout": 0.0}}
    recipe = {"align": {**stage, "trainable": ["projector"]}, "finetune": [whole, adapters]}
    data = {"align": str(parts / "data"), "finetune": [str(parts / "data"), str(folder / "text.json")]}
    text = tiny_parts.study_text(parts, recipe=recipe, data={**data, "eval": str(parts / "data")})
    (folder / "study.yaml").write_text(yaml.safe_dump(text))
    for sharding in ("fsdp2", "zero2", "zero3"):
        shared = {**text, "training": {"processes": 2, "sharding": sharding}}
        (folder / f"{sharding}.yaml").write_text(yaml.safe_dump(shared))
    return folder


def arguments(study: Path, backbone: str, out: Path) -> list[str]:
    return ["--study", str(study), "--backbone", backbone, "--out", str(out), "--threads", "1"]


@pytest.fixture(scope="module")
def alone(study: Path, parts: Path) -> Path:
    assert finetune.main(arguments(study / "study.yaml", str(parts / "backbone"), study / "alone")) == 0
    return study / "alone" / "backbone"


def start(study: Path, sharding: Any, parts: Path, out: Path) -> subprocess.Popen[str]:
    words = arguments(study / f"{sharding}.yaml", str(parts / "backbone"), out)
    command = launch_command("vlm_backbones.train.finetune", words, processes=2, sharding=sharding)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def rows(run: Path, stage: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == stage]


def assert_trained_alike(run: Path, alone: Path) -> None:
    for stage, tolerance in (("align", 1e-4), ("finetune", 1e-4), ("finetune-2", 3e-2)):
        ours, theirs = rows(run, stage), rows(alone, stage)
        assert [row["step"] for row in ours] == [row["step"] for row in theirs]
        for key in ("loss", "grad_norm"):
            expected = [row[key] for row in theirs]
            assert [row[key] for row in ours] == pytest.approx(expected, abs=tolerance, rel=tolerance), (stage, key)
    for stage in ("align", "finetune"):
        ours, theirs = (load_file(folder / stage / "trainable.safetensors") for folder in (run, alone))
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)
    records = [json.loads((folder / "run.json").read_text()) for folder in (run, alone)]
    orders = [{name: stage["order_sha256"] for name, stage in record["stages"].items()} for record in records]
    assert orders[0] == orders[1]
    assert records[0]["state"] == "finished"


def assert_held_as_estimated(run: Path, study: Path, sharding: Any) -> None:
    """What a process held is what the formulas of `study check` say, but for what is whole only for a moment."""
    config = load_study(study / "study.yaml")
    data = {name: ExpectedData(examples=16, text_tokens=20) for name in config.recipe.stages}
    stages = json.loads((run / "run.json").read_text())["stages"]
    for row in estimate_study(config, data):
        kept = replace(row.weights, tower=0, layer=0, edges=0)
        expected = kept.bytes_held(sharding, 2)
        if sharding == "none" and kept.width == 2:
            expected -= 2 * kept.trained  # the copies in bf16, made for a product
        assert stages[row.stage]["held_bytes"] == pytest.approx(expected, rel=0.02), row.stage


def test_fsdp2_trains_as_one_process_does_and_goes_on_after_a_kill(
    study: Path, alone: Path, parts: Path, tmp_path: Path
) -> None:
    launcher = start(study, "fsdp2", parts, tmp_path)
    stage = tmp_path / "backbone" / "finetune"
    deadline = time.monotonic() + 300
    while launcher.poll() is None and not list(stage.glob("checkpoint-*/seal.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    assert len(workers) >= 2
    while any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers):  # they end with their launcher
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # a later one may be half written
    last = max(stage.glob("checkpoint-*/seal.json"), key=lambda seal: int(seal.parent.name.partition("-")[2])).parent
    shards = [file.stat().st_size for file in (last / "shards").glob("*.distcp")]
    assert len(shards) == 2
    assert max(shards) < 0.6 * sum(shards)  # each process kept its half

    again = start(study, "fsdp2", parts, tmp_path)
    _, said = again.communicate()
    assert again.returncode == 0, said
    assert_trained_alike(tmp_path / "backbone", alone)
    record = json.loads((tmp_path / "backbone" / "run.json").read_text())
    assert (record["hardware"]["processes"], record["hardware"]["sharding"]) == (2, "fsdp2")
    for run, sharding in ((alone, "none"), (tmp_path / "backbone", "fsdp2")):
        assert_held_as_estimated(run, study, sharding)
    model, _ = load(tmp_path / "backbone" / "checkpoint")
    before = load_file(stage / "trainable.safetensors")["model.language_model.layers.0.mlp.up_proj.weight"]
    change = model.model.language_model.layers[0].mlp.up_proj.weight.float() - before
    assert float(change.abs().max()) > 1e-3  # the adapters of the last stage are in the weights


@pytest.mark.parametrize("sharding", ["zero2", "zero3"])
def test_deepspeed_trains_as_one_process_does(
    study: Path, alone: Path, parts: Path, tmp_path: Path, sharding: str
) -> None:
    pytest.importorskip("deepspeed")
    launcher = start(study, sharding, parts, tmp_path)
    _, said = launcher.communicate()
    assert launcher.returncode == 0, said
    assert_trained_alike(tmp_path / "backbone", alone)


def test_every_configuration_is_one_that_accelerate_reads() -> None:
    folder = accelerate_config("none").parent
    assert sorted(path.stem for path in folder.iterdir()) == ["fsdp2", "none", "zero2", "zero3"]
    kinds = {path.stem: load_config_from_file(str(path)) for path in folder.iterdir()}
    assert {name: str(kind.distributed_type.value) for name, kind in kinds.items()} == {
        "none": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED",
    }  # fmt: skip
    assert kinds["fsdp2"].fsdp_config["fsdp_version"] == 2
    assert [kinds[name].deepspeed_config["zero_stage"] for name in ("zero2", "zero3")] == [2, 3]


def test_sharding_that_the_processes_were_not_started_with_is_refused(
    study: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune.main(arguments(study / "fsdp2.yaml", str(parts / "backbone"), tmp_path)) == 2
    said = capsys.readouterr().err
    assert "training.sharding is fsdp2, the processes were started to share none" in said
    assert str(accelerate_config("fsdp2")) in said
    assert not list(tmp_path.iterdir())


def test_sharing_needs_someone_to_share_with(study: Path) -> None:
    with pytest.raises(Exception, match="'sharding' fsdp2 needs 'processes' to share among"):
        load_study(study / "study.yaml", ["training.sharding=fsdp2"])


def test_a_working_copy_shares_the_weights_and_nothing_else(parts: Path) -> None:
    model, _ = compose(parts / "backbone", parts / "tower")
    stand_in = torch.nn.Identity()
    copy = working_copy(model, {model.model.vision_tower: stand_in})
    assert copy.model.vision_tower is stand_in
    own = dict(model.named_parameters())
    for name, parameter in copy.named_parameters():
        assert parameter.data_ptr() == own[name].data_ptr()
        assert parameter is not own[name]
    assert copy.lm_head.weight is copy.model.language_model.embed_tokens.weight  # tied as before
    before = own["lm_head.weight"].detach().clone() if "lm_head.weight" in own else model.lm_head.weight.clone()
    copy.to("meta")  # what a launcher may do to it
    assert torch.equal(model.lm_head.weight, before)


def test_frozen_layers_in_bf16_change_nothing_under_bf16_products(parts: Path) -> None:
    model, _ = compose(parts / "backbone", parts / "tower")
    model.requires_grad_(False)
    ids = torch.arange(5, 25)[None]
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(input_ids=ids).logits
        lower_frozen_layers(model, torch.bfloat16)
        found = model(input_ids=ids).logits
    assert model.model.language_model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert model.model.language_model.embed_tokens.weight.dtype == torch.float32
    assert torch.equal(found, expected)

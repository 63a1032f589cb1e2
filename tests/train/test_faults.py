"""What goes wrong in the middle of training: too little memory, a loss that runs away, damaged results, a dead peer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from vlm_backbones.recipe import StageRecipe
from vlm_backbones.train import finetune, memory
from vlm_backbones.train.trainer import BackboneTrainer


def write_study(tiny_parts: ModuleType, parts: Path, folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tiny_parts.study_text(parts, **changes)), encoding="utf-8")
    return path


def arguments(study: Path, parts: Path, out: Path) -> list[str]:
    return ["--study", str(study), "--backbone", str(parts / "backbone"), "--out", str(out), "--threads", "1"]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(out / "backbone" / "checkpoint" / "model.safetensors"))


@pytest.fixture(scope="module")
def study(tiny_parts: ModuleType, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's file; `out` beside it holds its undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    path = write_study(tiny_parts, parts, folder, steps=10)
    assert finetune.main(arguments(path, parts, folder / "out")) == 0
    return path


@pytest.mark.parametrize(("given", "error"), [
    (None, torch.OutOfMemoryError("CUDA out of memory")),
    (False, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
], ids=["left open", "never recomputed"])  # fmt: skip
def test_out_of_memory_recomputes_then_makes_smaller_parts_and_the_same_steps(
    study: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    given: bool | None, error: Exception,
) -> None:  # fmt: skip
    """A device that takes no more than two examples a pass, from the fourth step on."""
    text = yaml.safe_load(study.read_text())
    for stage in text["recipe"].values():
        stage["gradient_checkpointing"] = given
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(text))
    compute_loss = BackboneTrainer.compute_loss

    def limited(self: BackboneTrainer, model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> Any:
        if self.state.global_step >= 3 and len(inputs["examples"]) > 2:
            raise error
        return compute_loss(self, model, inputs, *more, **named)

    monkeypatch.setattr(BackboneTrainer, "compute_loss", limited)
    assert finetune.main(arguments(tmp_path / "study.yaml", parts, tmp_path)) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "out of memory" in line]
    end = "from the last saved step on, steps as before"
    assert said == [
        f"{stage}: out of memory with 4 examples a pass; {instead} {end}"
        for stage in ("align", "finetune")
        for instead in (["2"] if given is False else ["activations are recomputed", "2"])
    ]
    record = json.loads((tmp_path / "backbone" / "run.json").read_text())
    undisturbed = json.loads((study.parent / "out" / "backbone" / "run.json").read_text())
    for stage, facts in record["stages"].items():
        saved = ("micro_batch_size", "gradient_checkpointing", "fingerprint")
        same = {key: value for key, value in facts.items() if key not in saved}
        assert (facts["micro_batch_size"], facts["batch_size"]) == (2, 4)
        assert facts["gradient_checkpointing"] is (given is None)
        assert same.items() <= undisturbed["stages"][stage].items()
    found, wanted = weights(tmp_path), weights(study.parent / "out")
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


def test_activations_are_recomputed_only_from_where_memory_is_short(
    study: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that keeps the activations of the align stage and, from its fourth step on, not those of finetune."""
    compute_loss = BackboneTrainer.compute_loss

    def limited(self: BackboneTrainer, model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> Any:
        trains_llm = any(weight.requires_grad for weight in model.model.language_model.parameters())
        if trains_llm and self.state.global_step >= 3 and not self.args.gradient_checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute_loss(self, model, inputs, *more, **named)

    monkeypatch.setattr(BackboneTrainer, "compute_loss", limited)
    assert finetune.main(arguments(study, parts, tmp_path)) == 0
    stages = json.loads((tmp_path / "backbone" / "run.json").read_text())["stages"]
    assert {name: facts["gradient_checkpointing"] for name, facts in stages.items()} == {
        "align": False, "finetune": True,
    }  # fmt: skip
    assert {facts["micro_batch_size"] for facts in stages.values()} == {4}
    undisturbed = json.loads((study.parent / "out" / "backbone" / "run.json").read_text())["stages"]
    assert not any(facts["gradient_checkpointing"] for facts in undisturbed.values())
    found, wanted = weights(tmp_path), weights(study.parent / "out")
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("given", "gpus", "wanted"), [
    (None, 0, False), (None, 1, False), (None, 2, True), (False, 2, False), (True, 1, True),
])  # fmt: skip
def test_several_gpus_recompute_from_the_start_unless_the_recipe_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool | None, gpus: int, wanted: bool
) -> None:
    monkeypatch.setattr(memory, "processes", lambda: SimpleNamespace(num_processes=max(1, gpus)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    recipe = StageRecipe(steps=1, batch_size=4, learning_rate=1e-3, gradient_checkpointing=given)
    within = memory.within_memory(recipe, tmp_path, "align")
    assert within.gradient_checkpointing is wanted
    if not wanted and gpus < 2:
        with pytest.raises(memory.LessMemory):
            memory.use_less(tmp_path, "align", recipe, within, 4)
        assert memory.within_memory(recipe, tmp_path, "align").gradient_checkpointing
        assert memory.within_memory(recipe, tmp_path, "finetune") == within  # each stage its own


def test_one_example_that_is_too_large_is_an_error(
    study: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*given: Any, **named: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 1 bytes")

    monkeypatch.setattr(BackboneTrainer, "compute_loss", never)
    assert finetune.main(arguments(study, parts, tmp_path)) == 2
    captured = capsys.readouterr()
    assert captured.out.count("out of memory with") == 3  # of 4 examples, of 4 recomputed and of 2
    assert "align: out of memory with one example a pass. Set lora, or share" in captured.err


def test_a_loss_that_runs_away_names_its_rows_and_the_last_good_checkpoint(
    study: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute_loss = BackboneTrainer.compute_loss

    def spoilt(self: BackboneTrainer, model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
        if self.state.global_step == 6:
            inputs = {**inputs, "weights": inputs["weights"] * float("nan")}
        return compute_loss(self, model, inputs, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(BackboneTrainer, "compute_loss", spoilt)
        assert finetune.main(arguments(study, parts, tmp_path)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the loss is nan at step 7 of align, on ")
    assert error.count("/train row ") == 4  # the examples of the step
    # the bad loss is of the weights in checkpoint-6, and which of the two is at fault is not known: an earlier one
    assert f"Last good checkpoint: {tmp_path / 'backbone' / 'align' / 'checkpoint-4'}." in error
    assert finetune.main(arguments(study, parts, tmp_path)) == 0  # goes on
    wanted = weights(study.parent / "out")
    assert all(torch.equal(value, wanted[name]) for name, value in weights(tmp_path).items())


def test_a_damaged_result_of_a_stage_is_trained_again(
    study: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune.main(arguments(study, parts, tmp_path)) == 0
    result = tmp_path / "backbone" / "finetune" / "trainable.safetensors"
    content = result.read_bytes()
    result.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (tmp_path / "backbone" / "checkpoint" / "model.safetensors").unlink()
    capsys.readouterr()
    assert finetune.main(arguments(study, parts, tmp_path)) == 0
    assert f"{result} is damaged" in capsys.readouterr().out
    wanted = weights(study.parent / "out")
    assert all(torch.equal(value, wanted[name]) for name, value in weights(tmp_path).items())


def test_a_killed_worker_ends_all_of_them_and_training_goes_on_later(study: Path, parts: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "vlm_backbones.train.finetune", *arguments(study, parts, tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (tmp_path / "log").open("wb") as log:
        launcher = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while not list((tmp_path / "backbone").glob("align/checkpoint-*/seal.json")):
            assert launcher.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        victim = children(launcher.pid)[1]
        os.kill(victim, signal.SIGKILL)
        assert launcher.wait(timeout=120) != 0
    assert "SIGKILL" in (tmp_path / "log").read_text()
    assert not (tmp_path / "backbone" / "checkpoint").exists()
    assert finetune.main(arguments(study, parts, tmp_path)) == 0
    found, wanted = weights(tmp_path), weights(study.parent / "out")
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for path in listed for child in path.read_text().split())


def test_an_llm_that_would_read_one_answer_from_another_is_refused(
    tiny_parts: ModuleType, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """StableLM's attention does not hand on the layout, so every packed turn would see those before it."""
    llm = tiny_parts.build_backbone_like(tmp_path / "llm", parts / "backbone", "stablelm")
    path = write_study(tiny_parts, parts, tmp_path, steps=2, backbones=[str(llm)])
    given = ["--study", str(path), "--backbone", str(llm), "--out", str(tmp_path / "out"), "--threads", "1"]
    assert finetune.main(given) == 2
    said = capsys.readouterr().err
    assert "0 of the LLM's 2 layers (StableLmDecoderLayer) attend by the layout of packed turns" in said

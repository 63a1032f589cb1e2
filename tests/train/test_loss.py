"""Liger's loss is chosen on a GPU alone, stands in the output head's place, and is the loss that logits give."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from vlm_backbones.recipe import StageRecipe
from vlm_backbones.train import finetune, loss, stage

TOKEN = StageRecipe(steps=1, batch_size=4, learning_rate=1e-3)


@pytest.mark.parametrize(
    ("recipe", "gpu", "installed", "fused"),
    [
        (TOKEN, True, True, True),
        (TOKEN, False, True, False),
        (TOKEN, True, False, False),
        (TOKEN.model_copy(update={"answer_weighting": "inverse_sqrt_length"}), True, True, False),
    ],
)
def test_the_fused_loss_is_for_tokens_of_one_weight_on_a_gpu_that_has_it(
    monkeypatch: pytest.MonkeyPatch, recipe: StageRecipe, gpu: bool, installed: bool, fused: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(loss, "find_spec", lambda name: ModuleSpec(name, None) if installed else None)
    assert loss.has_fused_loss(recipe) is fused


class PlainLoss(nn.Module):
    """The formula of Liger's module by torch, under its arguments."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, lin_weight: torch.Tensor, _input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(_input @ lin_weight.T, target, reduction=self.reduction)


@pytest.mark.parametrize("lora", [None, {"r": 2, "alpha": 4, "dropout": 0.0}], ids=["full", "lora"])
def test_training_with_the_head_in_its_place_is_training_with_logits(
    tiny_parts: ModuleType, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: dict[str, Any] | None
) -> None:
    """With two micro-batches a step."""
    common = {**tiny_parts.study_text(parts, steps=4)["recipe"]["finetune"], "micro_batch_size": 2}
    recipe = {"align": {**common, "trainable": ["projector"]}, "finetune": {**common, "lora": lora}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tiny_parts.study_text(parts, recipe=recipe)))

    def run(out: Path) -> tuple[list[float], dict[str, Any]]:
        command = ["--study", str(tmp_path / "study.yaml"), "--backbone", str(parts / "backbone"), "--out", str(out)]
        assert finetune.main([*command, "--threads", "1"]) == 0
        rows = [json.loads(line) for line in (out / "backbone" / "metrics.jsonl").read_text().splitlines()]
        stages = json.loads((out / "backbone" / "run.json").read_text())["stages"]
        return [row["loss"] for row in rows], {name: facts["fused_loss"] for name, facts in stages.items()}

    losses, fused = run(tmp_path / "logits")
    assert fused == {"align": False, "finetune": False}
    liger: Any = ModuleType("liger_kernel.transformers")
    liger.LigerFusedLinearCrossEntropyLoss = PlainLoss
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", liger)
    for module in (stage, finetune):
        monkeypatch.setattr(module, "has_fused_loss", lambda recipe: True)
    found, fused = run(tmp_path / "fused")
    assert fused == {"align": True, "finetune": True}
    assert found == pytest.approx(losses, rel=1e-5)


def test_ligers_loss_and_gradients_are_those_of_logits() -> None:
    pytest.importorskip("liger_kernel", reason="liger-kernel is not installed")
    if not torch.cuda.is_available():
        pytest.skip("liger's kernels are Triton's, which need a GPU")
    torch.manual_seed(0)
    states = torch.randn(1, 300, 64, device="cuda", requires_grad=True)
    weight = nn.Parameter(torch.randn(1000, 64, device="cuda") / 8)
    targets = torch.randint(1000, (300,), device="cuda")
    head = loss.FusedHead(weight)
    head.targets = targets
    results = []
    for total in (head(states), nn.functional.cross_entropy(states[0] @ weight.T, targets, reduction="sum")):
        states.grad = weight.grad = None
        (total / 300).backward()
        results.append((total.detach() / 300, states.grad, weight.grad))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)

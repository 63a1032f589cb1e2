"""Memory and hours are estimated from shapes alone, and come near the published hours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlm_backbones._estimate import GPUS, estimate_study, measured_data
from vlm_backbones.control import check_study, missing_parts
from vlm_backbones.study import load_study

A100 = next(gpu for gpu in GPUS if gpu.name == "A100 80 GB")
PUBLISHED = [  # study, backbone, stages, hours on eight A100
    ("llava-1.5", "vicuna-1.5-7b", ["align"], 3.5),
    ("llava-1.5", "vicuna-1.5-13b", ["align"], 5.5),
    ("llava-1.5", "vicuna-1.5-7b", ["finetune"], 10),
    ("llava-1.5", "vicuna-1.5-13b", ["finetune"], 20),
    ("vip-llava", "vicuna-1.5-7b", ["finetune", "finetune-2"], 20),
    ("vip-llava", "vicuna-1.5-13b", ["finetune", "finetune-2"], 40),
    ("vip-llava", "vicuna-1.5-7b", ["finetune-2"], 0.5),
    ("vip-llava", "vicuna-1.5-13b", ["finetune-2"], 1),
]


@pytest.fixture(scope="module")
def estimates() -> dict[tuple[str, str, str], Any]:
    return {
        (study, row.backbone, row.stage): row
        for study in ("llava-1.5", "vip-llava")
        for row in estimate_study(load_study(study))
    }


@pytest.mark.parametrize(("study", "backbone", "stages", "hours"), PUBLISHED)
def test_the_hours_come_within_a_fifth_of_the_published(
    estimates: dict[tuple[str, str, str], Any], study: str, backbone: str, stages: list[str], hours: float
) -> None:
    estimated = sum(estimates[study, backbone, stage].hours(A100, 8) for stage in stages)
    assert estimated == pytest.approx(hours, rel=0.2)


def test_the_formulas_give_what_is_computed_by_hand(estimates: dict[tuple[str, str, str], Any]) -> None:
    align, finetune = (estimates["llava-1.5", "vicuna-1.5-7b", stage] for stage in ("align", "finetune"))
    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11008)  # 6.476e9 weights in the layers' products
    tokens = 576 + 30
    forward = 2 * linear * tokens + 2 * tokens**2 * 4096 * 32
    # forward, gradients of activations, and the forward again; the head's logits and their gradients; the tower
    example = 3 * forward + 2 * (2 * 32000 * 4096 * 30) + 2 * 303_507_456 * 577
    assert align.operations == pytest.approx(example * 2181 * 256, rel=1e-9)
    assert align.tokens == tokens
    assert (align.trained_parameters, finetune.trained_parameters) == (20_979_712, 6_738_415_616 + 20_979_712)
    # 16 bytes a trained weight, 4 a frozen one
    assert align.state_gb == pytest.approx((20_979_712 * 16 + (6_738_415_616 + 303_507_456) * 4) / 1e9)
    assert finetune.state_gb == pytest.approx((6_759_395_328 * 16 + 303_507_456 * 4) / 1e9)
    assert finetune.sharded_gb(8) == pytest.approx(finetune.memory_gb - finetune.state_gb * 7 / 8)
    assert finetune.smallest(GPUS[-1]) == (1, False)
    assert finetune.smallest(A100) == (2, True)


def test_adapters_and_four_bits_need_less() -> None:
    memory = {}
    for recipe in ("llava-1.5", "llava-1.5-lora", "llava-1.5-qlora"):
        rows = estimate_study(load_study("llava-1.5", [f"recipe={recipe}"]))
        memory[recipe] = next(row for row in rows if (row.backbone, row.stage) == ("vicuna-1.5-7b", "finetune"))
    full, lora, qlora = memory.values()
    assert full.state_gb > 2 * lora.state_gb > 4 * qlora.state_gb
    # rank 128 on seven matrices a layer: 4 of (4096, 4096) and 3 of (4096, 11008)
    assert lora.trained_parameters == 20_979_712 + 128 * 32 * (4 * 2 * 4096 + 3 * (4096 + 11008))
    assert qlora.smallest(GPUS[1]) == (1, False)  # one GPU of 40 GB


def test_read_data_replaces_what_was_expected(tiny_study: Path, tmp_path: Path) -> None:
    study = load_study(tiny_study)
    certificate = check_study(study, tmp_path)
    measured = measured_data(certificate)
    assert {name: row.examples for name, row in measured.items()} == {"align": 48, "finetune": 48}
    assert [row.with_image for row in measured.values()] == [1.0, 1.0]
    row = next(iter(estimate_study(study, measured)))
    assert row.tokens == round(certificate["backbones"]["tiny-1"]["stages"]["align"]["tokens_an_example"])
    assert missing_parts(study) == []


def test_a_check_without_files_prints_the_estimate_and_says_what_it_could_not_check(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-m", "vlm_backbones.cli", "study", "check", "barn"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "llama-3-8b, finetune  8,051,240,960" in done.stdout
    assert "llama-1-7b: 121 GB on every GPU (finetune), fits H200 141 GB; about 14.1 h" in done.stdout
    assert "only the estimate was made" in done.stderr
    assert f"{tmp_path}/playground/data/llava_v1_5_mix665k.json does not exist" in done.stderr
    assert "llama-2-7b: meta-llama/Llama-2-7b-hf is not downloaded" in done.stderr
    assert not (tmp_path / "runs").exists()

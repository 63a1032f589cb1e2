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
    # 18 bytes a trained weight (one copy in bf16), 2 a frozen linear one; 4 of embeddings, norms and the tower
    trained, norms = 6_738_415_616 + 20_979_712, 65 * 4096
    embeddings, tower = 32000 * 4096, 303_507_456
    held = align.weights.bytes_held("none", 1)
    assert held == 20_979_712 * 18 + (linear + embeddings) * 2 + (embeddings + norms + tower) * 4
    assert finetune.weights.bytes_held("none", 1) == trained * 18 + tower * 4
    # two layers, embeddings, head and projector in bf16; one layer's and their gradients in bf16 and float32
    layer, edges = linear / 32, 2 * embeddings + 20_979_712
    whole = 2 * (2 * layer + edges) + 6 * (layer + edges)
    assert finetune.weights.bytes_held("fsdp2", 8) == pytest.approx(trained * 16 / 8 + tower * 4 + whole)
    # ZeRO-2: bf16 weights whole; gradient in bf16, float32 weight and moments shared; two buckets of 5e8 in bf16
    assert finetune.weights.bytes_held("zero2", 8) == pytest.approx(trained * (2 + 14 / 8) + tower * 4 + 2e9)
    assert finetune.weights.bytes_held("zero3", 8) == pytest.approx(trained * 16 / 8 + tower * 4 + 4e9)


def test_the_published_machines_hold_what_was_trained_on_them(estimates: dict[tuple[str, str, str], Any]) -> None:
    """LLaVA: 7B on eight A100 of 40 GB, 13B on eight of 80 GB, both with ZeRO-3; none of them holds either whole."""
    seven, thirteen = (estimates["llava-1.5", f"vicuna-1.5-{size}", "finetune"] for size in ("7b", "13b"))
    assert seven.memory_gb("zero3", 8) < 40 < seven.memory_gb()
    assert 40 < thirteen.memory_gb("zero3", 8) < 80 < thirteen.memory_gb()
    assert seven.fewest(A100, "none") is None
    assert seven.fewest(GPUS[-1], "none") == 1
    held = [thirteen.memory_gb("fsdp2", count) for count in (2, 4, 8, 64)]
    assert held == sorted(held, reverse=True)


def test_adapters_and_four_bits_need_less() -> None:
    memory = {}
    for recipe in ("llava-1.5", "llava-1.5-lora", "llava-1.5-qlora"):
        rows = estimate_study(load_study("llava-1.5", [f"recipe={recipe}"]))
        memory[recipe] = next(row for row in rows if (row.backbone, row.stage) == ("vicuna-1.5-7b", "finetune"))
    full, lora, qlora = memory.values()
    held = [row.weights.bytes_held("none", 1) for row in (full, lora, qlora)]
    assert held[0] > 2 * held[1] > 2 * held[2]
    # rank 128 on seven matrices a layer: 4 of (4096, 4096) and 3 of (4096, 11008)
    assert lora.trained_parameters == 20_979_712 + 128 * 32 * (4 * 2 * 4096 + 3 * (4096 + 11008))
    assert qlora.fewest(GPUS[1], "none") == 1  # one GPU of 40 GB
    assert qlora.fewest(GPUS[1], "fsdp2") is None  # 4 bits cannot be shared


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
    chosen = "llama-1-7b: 27 GB a GPU (finetune) with the study's processes=8, sharding=fsdp2, fits A100 40 GB or"
    assert chosen in done.stdout
    assert "about 14.1 h" in done.stdout
    assert "only the estimate was made" in done.stderr
    assert f"{tmp_path}/playground/data/llava_v1_5_mix665k.json does not exist" in done.stderr
    assert "llama-2-7b: meta-llama/Llama-2-7b-hf is not downloaded" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_mistyped_data_file_is_one_message(tmp_path: Path) -> None:
    file = tmp_path / "mistyped.json"
    command = ["study", "check", "pocket", "--set", f"data.finetune=[{file}]", "--set", "backbones=[pocket-llama-1]"]
    done = subprocess.run(
        [sys.executable, "-m", "vlm_backbones.cli", *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "error: without these nothing could be checked" in done.stderr
    assert f"{file} does not exist" in done.stderr
    assert "Traceback" not in done.stderr

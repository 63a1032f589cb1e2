"""The maker: shipped files match their manifest, and a shortened rebuild goes the same way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel

from vlm_backbones.errors import CheckpointError
from vlm_backbones.pocket.make.__main__ import ASSETS, BACKBONES, TOWER, main
from vlm_backbones.pocket.make.manifest import MAKER_VERSION, check_manifest, read_manifest

MAXIMUM_BYTES = 12_000_000


def test_shipped_files_match_the_manifest() -> None:
    check_manifest(ASSETS)
    manifest = read_manifest(ASSETS)
    assert manifest["maker_version"] == MAKER_VERSION
    assert sum(row["bytes"] for row in manifest["files"].values()) <= MAXIMUM_BYTES
    assert set(manifest["parts"]) == {TOWER, *(plan.name for plan in BACKBONES)}
    for plan in BACKBONES:
        row = manifest["parts"][plan.name]
        assert {name: row[name] for name in plan.as_row()} == json.loads(json.dumps(plan.as_row()))
        assert row["tokens_seen"] > 1_000_000
    assert all(name.endswith((".safetensors", ".json", ".jinja", ".gz", ".png")) for name in manifest["files"])


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    copy = tmp_path / "assets"
    shutil.copytree(ASSETS, copy)
    (copy / "land.png").write_bytes(b"changed")
    with pytest.raises(CheckpointError, match=r"land\.png"):
        check_manifest(copy)


def test_generations_differ_as_the_real_ones_do() -> None:
    one, two, three = (AutoModelForCausalLM.from_pretrained(ASSETS / plan.name).config for plan in BACKBONES)
    assert two.max_position_embeddings == 2 * one.max_position_embeddings
    assert three.num_key_value_heads < three.num_attention_heads
    assert one.num_key_value_heads == one.num_attention_heads
    assert three.rope_parameters["rope_theta"] == 500_000
    assert three.vocab_size > 2 * one.vocab_size
    tokens = [row["tokens_seen"] for row in (read_manifest(ASSETS)["parts"][plan.name] for plan in BACKBONES)]
    assert tokens[1] == pytest.approx(2 * tokens[0], rel=0.02)
    assert tokens[2] > 3 * tokens[0]


def test_digits_are_split_or_grouped() -> None:
    first, second, third = (AutoTokenizer.from_pretrained(ASSETS / plan.name) for plan in BACKBONES)
    assert first.get_vocab() == second.get_vocab()
    assert first.tokenize("36.125") == ["3", "6", ".", "1", "2", "5"]
    assert third.tokenize("36.125") == ["36", ".", "125"]
    assert all(tokenizer.decode(tokenizer("36.125 ok?\n").input_ids) == "36.125 ok?\n" for tokenizer in (first, third))


def test_a_shortened_rebuild_makes_the_same_kind_of_parts_twice_alike(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("a", "b"):
        options = ["--out", str(tmp_path / name), "--work", str(tmp_path / f"{name}-work"), "--shorten", "2000"]
        command = [sys.executable, "-m", "vlm_backbones.pocket.make", *options]
        subprocess.run(command, check=True, env=environment, capture_output=True)
    for part in (TOWER, *(plan.name for plan in BACKBONES)):
        kind = CLIPVisionModel if part == TOWER else AutoModelForCausalLM
        first, second, shipped = (
            kind.from_pretrained(folder / part).state_dict() for folder in (tmp_path / "a", tmp_path / "b", ASSETS)
        )
        assert {
            name: tensor.shape for name, tensor in first.items() if "embed_tokens" not in name and "lm_head" not in name
        } == {
            name: tensor.shape
            for name, tensor in shipped.items()
            if "embed_tokens" not in name and "lm_head" not in name
        }
        assert all(torch.equal(first[name], second[name]) for name in first), f"{part} is not seeded"
    check_manifest(tmp_path / "a")
    main(["--out", str(tmp_path / "a"), "--work", str(tmp_path / "a-work"), "--shorten", "2000"])  # nothing to do
    check_manifest(tmp_path / "a")

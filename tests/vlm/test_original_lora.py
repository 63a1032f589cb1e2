"""LoRA checkpoints of the original format: merged as the formula says, the projector from its own file."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlm_backbones.errors import CheckpointError
from vlm_backbones.vlm.original import load_original


@pytest.fixture
def adapted(originals: ModuleType, tmp_path: Path) -> tuple[Any, Path, Path]:
    """Return (what it must compute, the adapter's folder, the LLM's folder), as finetune_lora.sh leaves them."""
    original = originals.build(tmp_path / "base", "vicuna")
    folder = tmp_path / "lora"
    folder.mkdir()
    torch.manual_seed(9)
    llm, adapter = copy.deepcopy(original.llm), {}
    for name in ("layers.0.self_attn.q_proj", "layers.1.mlp.down_proj"):
        layer = llm.model.get_submodule(name)
        down, up = torch.randn(4, layer.in_features) * 0.3, torch.randn(layer.out_features, 4) * 0.3
        layer.weight.data += 8 / 4 * up @ down  # lora_alpha / r
        adapter |= {
            f"base_model.model.model.{name}.lora_{key}.weight": value for key, value in (("A", down), ("B", up))
        }
    torch.save(adapter, folder / "adapter_model.bin")
    projector = {f"base_model.model.model.mm_projector.{name}": value for name, value in original.projector.items()}
    torch.save(projector, folder / "non_lora_trainables.bin")
    settings = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.05, "bias": "none", "base_model_name_or_path": "lmsys/x"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text((original.folder / "config.json").read_text())
    config = json.loads((original.folder / "config.json").read_text())
    plain = {key: value for key, value in config.items() if not key.startswith("mm_")} | {"model_type": "llama"}
    (original.folder / "config.json").write_text(json.dumps(plain))  # the base is an LLM alone
    originals.write_weights(original.folder, dict(original.llm.state_dict()), pickled=True)
    return replace(original, llm=llm), folder, original.folder


def test_logits_equal_the_merged_computation(adapted: tuple[Any, Path, Path]) -> None:
    original, folder, base = adapted
    model, processor = load_original(folder, vision_tower=original.tower_folder, model_base=base)
    picture = Image.fromarray(np.random.default_rng(7).integers(0, 256, (61, 90, 3), dtype=np.uint8))
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    wanted = original.logits(picture)
    with torch.inference_mode():
        found = model(**inputs).logits[0][:, : wanted.shape[1]]
    assert torch.allclose(found, wanted, atol=1e-4)


def test_what_an_adapter_lacks_is_named(adapted: tuple[Any, Path, Path]) -> None:
    original, folder, base = adapted
    options = {"vision_tower": original.tower_folder, "model_base": base}
    with pytest.raises(CheckpointError, match=r"LoRA adapter of 'lmsys/x': run .* --model-base DIR"):
        load_original(folder, vision_tower=original.tower_folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"use_dora": True}))
    with pytest.raises(CheckpointError, match="use_dora cannot be merged"):
        load_original(folder, **options)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4}))
    with pytest.raises(CheckpointError, match=r"expected r and lora_alpha \(KeyError"):
        load_original(folder, **options)
    for wrong in ({"lora_alpha": 10**400}, {"r": 10**400}, {"r": 0}, {"lora_alpha": float("nan")}, {"r": "4"}):
        (folder / "adapter_config.json").write_text(json.dumps(settings | wrong))
        with pytest.raises(CheckpointError, match="expected r and lora_alpha"):
            load_original(folder, **options)
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "a" * 5000}))
    with pytest.raises(CheckpointError, match="LoRA adapter of 'aaa"):
        load_original(folder, vision_tower=original.tower_folder)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    adapter = torch.load(folder / "adapter_model.bin", weights_only=True)
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    torch.save({**adapter, f"{name}.lora_magnitude": torch.ones(1)}, folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"q_proj\.lora_magnitude have no place"):
        load_original(folder, **options)
    torch.save({key: value for key, value in adapter.items() if "lora_B" not in key}, folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="has no lora_B"):
        load_original(folder, **options)
    (folder / "non_lora_trainables.bin").unlink()
    torch.save(adapter, folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"no non_lora_trainables\.bin"):
        load_original(folder, **options)

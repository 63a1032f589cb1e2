"""The JSON files of checkpoints in the original format: converted, or refused by name."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
import torch
from fuzzing import fuzz, lawful
from safetensors.torch import save
from spoiling import among, spoilt, spoilt_bytes, written

from vlm_backbones.backbones import get_backbone
from vlm_backbones.vision import get_vision_tower
from vlm_backbones.vlm.original import is_original, read_config
from vlm_backbones.vlm.original.config import OriginalConfig, build_text_config, parse_config
from vlm_backbones.vlm.original.loading import load_original
from vlm_backbones.vlm.original.lora import find_base, is_lora, read_lora
from vlm_backbones.vlm.original.weights import read_tensors

LLAMA: dict[str, Any] = {
    "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "mm_vision_tower": "openai/clip-vit-l-336",
    "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_start_end": False, "image_aspect_ratio": "pad", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-5,
    "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 10000.0, "vocab_size": 300, "hidden_act": "silu",
    "max_position_embeddings": 128, "tie_word_embeddings": False, "torch_dtype": "float16", "use_cache": True,
    "auto_map": {"AutoConfig": "evil.Config"}, "_name_or_path": "../../evil",
}  # fmt: skip
PHI = LLAMA | {"architectures": ["LlavaPhi3ForCausalLM"], "rope_scaling": None, "pad_token_id": 0}
VIP = {key: value for key, value in LLAMA.items() if key != "rope_scaling"} | {"mm_vision_tower": "clip_4layers_336"}
CONFIGS = [LLAMA, PHI, VIP]


@fuzz(content=written(spoilt(CONFIGS)))
def test_original_configs(out: Path, content: bytes) -> None:
    folder = out / "config"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(content)
    with lawful(out):
        found = read_config(folder)
        if is_original(found):
            config = parse_config(folder, found)
            assert isinstance(config, OriginalConfig)
            build_text_config(folder, found, [])
    with lawful(out):
        get_vision_tower(folder)
    with lawful(out):
        get_backbone(folder)


@pytest.fixture(scope="module")
def checkpoint(out: Path, originals: ModuleType) -> Path:
    """A whole tiny checkpoint with its tower inside."""
    return originals.build(out / "original", "llama-3").folder


@fuzz(chance=lambda chance: chance)
def test_whole_checkpoints(out: Path, checkpoint: Path, chance: Random) -> None:
    """Any of the JSON files is spoilt; everything else is as it should be."""
    name = chance.choice(sorted(file.name for file in checkpoint.glob("*.json")))
    good = (checkpoint / name).read_bytes()
    try:
        (checkpoint / name).write_bytes(written(spoilt([json.loads(good)]))(chance))
        with lawful(out):
            load_original(checkpoint)
    finally:
        (checkpoint / name).write_bytes(good)


ADAPTER = {"r": 2, "lora_alpha": 8, "base_model_name_or_path": "BASE", "use_rslora": True, "target_modules": ["q_proj"]}
INDEX = {"metadata": {}, "weight_map": {"a": "x.safetensors", "b": "y.bin"}}
PICKLED, LAYER = io.BytesIO(), "model.layers.0.q_proj"
torch.save({"model.mm_projector.0.weight": torch.ones(4)}, PICKLED)
SAFE = save({f"base_model.model.{LAYER}.lora_A.weight": torch.ones(2, 4),
             f"base_model.model.{LAYER}.lora_B.weight": torch.ones(4, 2)})  # fmt: skip


@pytest.fixture(scope="module")
def adapter(out: Path) -> Path:
    """A whole tiny adapter beside its base, and two shards."""
    folder = out / "adapter"
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "model.safetensors").write_bytes(save({f"{LAYER}.weight": torch.ones(4, 4)}))
    for name in ("x.safetensors", "adapter_model.safetensors"):
        (folder / name).write_bytes(SAFE)
    for name in ("y.bin", "non_lora_trainables.bin"):
        (folder / name).write_bytes(PICKLED.getvalue())
    return folder


@fuzz(
    settings=written(spoilt([ADAPTER])),
    index=written(spoilt([INDEX])),
    safe=spoilt_bytes(among([SAFE])),
    pickled=spoilt_bytes(among([PICKLED.getvalue()])),
)
def test_adapters_and_shards(
    out: Path, adapter: Path, settings: bytes, index: bytes, safe: bytes, pickled: bytes
) -> None:
    (adapter / "adapter_config.json").write_bytes(settings.replace(b"BASE", bytes(adapter / "base")))
    (adapter / "model.safetensors.index.json").write_bytes(index)
    (adapter / "x.safetensors").write_bytes(safe)
    (adapter / "y.bin").write_bytes(pickled)
    with lawful(out):
        assert is_lora(adapter)
        assert set(read_lora(adapter, find_base(adapter, None))) == {f"{LAYER}.weight", "model.mm_projector.0.weight"}
    with lawful(out):
        read_tensors(adapter)


def test_the_good_checkpoint_is_good(out: Path, checkpoint: Path) -> None:
    assert load_original(checkpoint)[0].config.model_type == "llava"
    for number, config in enumerate(CONFIGS):
        assert parse_config(out, config).is_vip == (number == 2)
        assert build_text_config(out, config, []).hidden_size == 64
    shutil.rmtree(out / "cache", ignore_errors=True)

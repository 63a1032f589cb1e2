"""The published seeds at full size, on `meta`: every tensor has its place, and their sum is that of the files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from vlm_backbones.vision import get_vision_tower
from vlm_backbones.vlm.composition import build_skeleton
from vlm_backbones.vlm.original.config import build_text_config
from vlm_backbones.vlm.original.weights import check_names, rename, split_tower

VICUNA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
VICUNA_13B = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
LLAMA_3 = {**VICUNA_7B, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256}
PHI_3 = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32,
         "vocab_size": 32064}  # fmt: skip

# name, the LLM's keys, ViP, tower inside, parameters in 1e9: half of the shards' bytes, or as the Hub counts them
SEEDS = [
    ("llava-v1.5-7b", VICUNA_7B, False, False, (9.98 + 3.54) / 2),
    ("llava-v1.5-13b", VICUNA_13B, False, False, (9.95 + 9.9 + 6.24) / 2),
    ("llava-1.5-llama-3-8b", LLAMA_3, False, True, 8.35),
    ("vip-llava-7b", VICUNA_7B, True, True, (9.98 + 4.18) / 2),
    ("vip-llava-13b", VICUNA_13B, True, True, (9.95 + 9.9 + 6.89) / 2),
    ("vip-llava-llama-3-8b", LLAMA_3, True, True, 8.37),
    ("llava-1.5-phi-3-mini-3.8B", PHI_3, False, True, 3.8211 + 0.3035 + 0.0126),  # LLM, tower, projector
    ("vip-llava-phi-3-mini-3.8B", PHI_3, True, True, 3.8211 + 0.3035 + 0.0252),
]


def original_state(keys: dict[str, Any], vip: bool, embedded: bool) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint under their original names, without storage."""
    phi = keys is PHI_3
    config: Any = Phi3Config(**keys) if phi else LlamaConfig(**keys)
    hidden = keys["hidden_size"]
    with torch.device("meta"):
        state = dict((Phi3ForCausalLM if phi else LlamaForCausalLM)(config).state_dict())
        width = 5120 if vip else 1024
        first, second = ("final_linear.0", "final_linear.2") if vip else ("0", "2")
        projector = {
            f"{first}.weight": torch.empty(hidden, width), f"{first}.bias": torch.empty(hidden),
            f"{second}.weight": torch.empty(hidden, hidden), f"{second}.bias": torch.empty(hidden),
        }  # fmt: skip
        if vip:
            projector |= {f"clip_layernorm.{name}": torch.empty(width) for name in ("weight", "bias")}
        state |= {f"model.mm_projector.{name}": value for name, value in projector.items()}
        if embedded:
            tower = CLIPVisionModel(clip_config()).state_dict().items()
            state |= {f"model.vision_tower.vision_tower.vision_model.{name}": value for name, value in tower}
    return state


def clip_config() -> Any:
    return CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "keys", "vip", "embedded", "billions"), SEEDS, ids=[seed[0] for seed in SEEDS])
def test_every_published_tensor_has_its_place(
    name: str, keys: dict[str, Any], vip: bool, embedded: bool, billions: float
) -> None:
    state = original_state(keys, vip, embedded)
    assert sum(value.numel() for value in state.values()) / 1e9 == pytest.approx(billions, abs=0.006)
    architecture = "LlavaPhi3ForCausalLM" if keys is PHI_3 else "LlavaLlamaForCausalLM"
    text_config = build_text_config(Path(name), {**keys, "architectures": [architecture]}, state)
    row = replace(get_vision_tower("clip-vit-l-336-vip" if vip else "clip-vit-l-336"), pad_to_square=True)
    skeleton = build_skeleton(text_config, clip_config(), row, keys.get("vocab_size", 32000))
    others, tower = split_tower(state)
    assert bool(tower) == embedded
    with torch.device("meta"):
        tower = tower or dict(CLIPVisionModel(clip_config()).state_dict())
    found = rename(others) | {f"model.vision_tower.{key}": value for key, value in tower.items()}
    check_names(Path(name), found, skeleton.state_dict())
    assert skeleton.config.image_seq_length == 576

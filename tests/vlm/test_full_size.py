"""Every full-size VLM composes without storage, with the shapes and counts of the published checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from vlm_backbones.backbones import Backbone, get_backbone, list_backbones
from vlm_backbones.errors import CheckpointError
from vlm_backbones.study import load_study
from vlm_backbones.vision import get_vision_tower
from vlm_backbones.vlm.full_size import build_on_meta, text_config, vision_config

# hidden, MLP, layers, key-value width, vocabulary: the published checkpoints' config.json
LLMS = {
    "llama-1-7b": (4096, 11008, 32, 4096, 32000),
    "llama-2-7b": (4096, 11008, 32, 4096, 32000),
    "vicuna-1.5-7b": (4096, 11008, 32, 4096, 32000),
    "vicuna-1.5-13b": (5120, 13824, 40, 5120, 32000),
    "llama-3-8b": (4096, 14336, 32, 1024, 128256),
    "llama-3-8b-instruct": (4096, 14336, 32, 1024, 128256),
    "phi-3-mini": (3072, 8192, 32, 3072, 32064),
}
CLIP_L_336 = 303_507_456  # CLIPVisionModel of openai/clip-vit-large-patch14-336


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def expected_llm(hidden: int, mlp: int, layers: int, key_value: int, vocabulary: int, *, fused: bool) -> dict[str, Any]:
    """Return every tensor of a LLaMA-like LLM by name; Phi-3 fuses query, key and value, and gate and up."""
    shapes: dict[str, Any] = {"embed_tokens.weight": (vocabulary, hidden), "norm.weight": (hidden,)}
    for index in range(layers):
        layer = f"layers.{index}"
        apart = {
            "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (key_value, hidden),
            "self_attn.v_proj": (key_value, hidden), "mlp.gate_proj": (mlp, hidden), "mlp.up_proj": (mlp, hidden),
        }  # fmt: skip
        joined = {"self_attn.qkv_proj": (hidden + 2 * key_value, hidden), "mlp.gate_up_proj": (2 * mlp, hidden)}
        common = {
            "self_attn.o_proj": (hidden, hidden), "mlp.down_proj": (hidden, mlp),
            "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        }  # fmt: skip
        for name, shape in {**(joined if fused else apart), **common}.items():
            shapes[f"{layer}.{name}.weight"] = shape
    return shapes


@pytest.mark.parametrize("tower", ["clip-vit-l-336", "clip-vit-l-336-vip"])
@pytest.mark.parametrize("backbone", LLMS)
def test_every_tensor_has_the_published_shape(backbone: str, tower: str) -> None:
    model: Any = build_on_meta(get_backbone(backbone), get_vision_tower(tower))
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    llm = {name: tuple(weight.shape) for name, weight in model.model.language_model.named_parameters()}
    assert llm == expected_llm(*LLMS[backbone], fused=backbone == "phi-3-mini")
    hidden, vocabulary = LLMS[backbone][0], LLMS[backbone][-1]
    assert tuple(model.lm_head.weight.shape) == (vocabulary, hidden)
    width = 1024 * (5 if tower.endswith("vip") else 1)
    projector = {"linear_1.weight": (hidden, width), "linear_1.bias": (hidden,)}
    projector |= {"linear_2.weight": (hidden, hidden), "linear_2.bias": (hidden,)}
    if width > 1024:
        projector |= {"projector_layernorm.weight": (width,), "projector_layernorm.bias": (width,)}
    found = {name: tuple(weight.shape) for name, weight in model.model.multi_modal_projector.named_parameters()}
    assert found == projector
    assert count(model.model.vision_tower) == CLIP_L_336


@pytest.mark.parametrize(
    ("backbone", "tower", "with_tower", "published_gb"),
    [  # the files' sizes on the hub, two bytes a weight
        ("vicuna-1.5-7b", "clip-vit-l-336", False, 9.98 + 3.54),
        ("vicuna-1.5-13b", "clip-vit-l-336", False, 9.95 + 9.9 + 6.24),
        ("vicuna-1.5-7b", "clip-vit-l-336-vip", True, 9.98 + 4.18),
        ("vicuna-1.5-13b", "clip-vit-l-336-vip", True, 9.95 + 9.9 + 6.89),
        ("llama-3-8b-instruct", "clip-vit-l-336", True, 2 * 8.35),
        ("llama-3-8b-instruct", "clip-vit-l-336-vip", True, 2 * 8.37),
    ],
)
def test_the_whole_has_the_size_of_the_published_files(
    backbone: str, tower: str, with_tower: bool, published_gb: float
) -> None:
    model: Any = build_on_meta(get_backbone(backbone), get_vision_tower(tower))
    weights = count(model) - (0 if with_tower else count(model.model.vision_tower))
    assert 2 * weights / 1e9 == pytest.approx(published_gb, abs=0.02)


def test_every_row_has_the_parameters_that_its_shapes_give() -> None:
    rows = [row for row in list_backbones() if row.hub_repo]
    assert len(rows) == 34
    for row in rows:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(text_config(row))
        assert count(model) == row.parameters, row.id


@pytest.mark.parametrize("name", ["barn", "llava-1.5", "vip-llava"])
def test_every_shipped_full_size_study_composes(name: str) -> None:
    study = load_study(name)
    for backbone in study.backbones:
        model = build_on_meta(get_backbone(backbone), get_vision_tower(study.vision_tower))
        assert type(model).__name__.startswith("VipLlava" if name == "vip-llava" else "Llava")
        assert model.config.image_seq_length == 576


def test_a_folder_is_read_instead_of_a_row(parts: Path) -> None:
    assert text_config(get_backbone(parts / "backbone")).hidden_size == 32
    assert vision_config(get_vision_tower(parts / "tower")).num_hidden_layers == 3
    with pytest.raises(CheckpointError, match=r"the configuration of llm: cannot be opened from .*nowhere"):
        text_config(Backbone(id="llm", family="llama", local_path=str(parts / "nowhere")))

"""VipLlava: five layers in their order behind a norm; composed, trained with the cache, saved, and read back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, VipLlavaForConditionalGeneration

from vlm_backbones.data.feature_cache import FeatureSpec
from vlm_backbones.train import finetune
from vlm_backbones.vision import get_vision_tower
from vlm_backbones.vision.preprocessing import build_image_processor, preprocess_images
from vlm_backbones.vlm import compose, load, save
from vlm_backbones.vlm.composition import load_vision_tower
from vlm_backbones.vlm.passthrough import PassthroughTower

LAYERS = [-2, -5, -8, -11, 6]


@pytest.fixture(scope="module")
def tower(tiny_parts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_parts.build_tower(tmp_path_factory.mktemp("vip") / "tower", hidden=16, layers=12)
    (folder / "vision_tower.yaml").write_text(
        yaml.safe_dump({"feature_layer": LAYERS, "select_strategy": "default", "pad_to_square": True})
    )
    return folder


def pixels_of(processor: Any) -> torch.Tensor:
    pictures = [Image.effect_noise((90, 60), 90).convert("RGB"), Image.new("RGB", (50, 70), "green")]
    return preprocess_images(processor.image_processor, pictures)


def direct_features(model: Any, states: Any) -> torch.Tensor:
    """Write the projector out: concatenation without the class token, norm, linear, exact GELU, linear."""
    part = model.model.multi_modal_projector
    x = torch.cat([states[layer][:, 1:] for layer in LAYERS], dim=-1)  # (images, 16, 80)
    centred = x - x.mean(-1, keepdim=True)
    x = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    x = x * part.projector_layernorm.weight + part.projector_layernorm.bias
    x = x @ part.linear_1.weight.T + part.linear_1.bias
    x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    return x @ part.linear_2.weight.T + part.linear_2.bias  # type: ignore[no-any-return]


def test_several_feature_layers_make_a_vip_llava(parts: Path, tower: Path) -> None:
    model, processor = compose(parts / "backbone", tower)
    assert type(model) is VipLlavaForConditionalGeneration
    assert list(model.config.vision_feature_layer) == LAYERS
    assert model.config.image_seq_length == 16  # 4 x 4 patches, no class token
    pixels = pixels_of(processor)
    with torch.inference_mode():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        found = model.get_image_features(pixels).pooler_output
        assert torch.allclose(found, direct_features(model, states), atol=1e-5)
    assert get_vision_tower("clip-vit-l-336-vip").feature_layers == tuple(LAYERS)


def test_it_opens_in_plain_transformers_with_the_same_logits(parts: Path, tower: Path, tmp_path: Path) -> None:
    model, processor = compose(parts / "backbone", tower)
    save(model, processor, tmp_path / "vlm")
    assert json.loads((tmp_path / "vlm" / "config.json").read_text())["vision_feature_layer"] == LAYERS
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "vlm").eval()
    plain_processor = AutoProcessor.from_pretrained(tmp_path / "vlm", backend="pil")
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What colour is the star?"}]}]
    inputs = plain_processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    inputs = plain_processor(images=Image.new("RGB", (80, 40), "red"), text=inputs, return_tensors="pt")
    ours, _ = load(tmp_path / "vlm")
    with torch.inference_mode():
        assert torch.equal(plain(**inputs).logits, model(**inputs).logits)
        assert torch.equal(ours(**inputs).logits, model(**inputs).logits)
    assert plain_processor.image_processor.do_pad


def test_cached_layers_stand_in_for_the_tower(parts: Path, tower: Path) -> None:
    """The projector reads the cached layers inside the model's forward as it reads the tower's own."""
    model, processor = compose(parts / "backbone", tower)
    row = get_vision_tower(tower)
    spec = FeatureSpec(load_vision_tower(row), build_image_processor(row), row.feature_layers, row.select_strategy)
    pixels = pixels_of(processor)
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    cached = torch.cat([states[layer] for layer in LAYERS], dim=-1)
    wanted = direct_features(model, states)
    model.model.vision_tower = PassthroughTower(row.feature_layers, torch.zeros(80), torch.ones(80))
    with torch.inference_mode():
        assert torch.allclose(model.get_image_features(cached).pooler_output, wanted, atol=1e-5)
    others = [replace(spec, layers=layers) for layers in ((-2,), (-5, -2, -8, -11, 6))]
    assert len({row.fingerprint for row in [spec, *others]}) == 3  # layers and their order are in the cache's key


def test_it_trains_with_and_without_the_cache_and_keeps_its_tower(
    tiny_parts: ModuleType, parts: Path, tower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(tiny_parts.study_text(parts, steps=4, vision_tower=str(tower))))
    losses = {}
    for budget in ("8", "0"):
        monkeypatch.setenv("VLM_BACKBONES_FEATURE_CACHE_GB", budget)
        out = tmp_path / budget
        command = ["--study", str(study), "--backbone", str(parts / "backbone"), "--out", str(out), "--threads", "1"]
        assert finetune.main(command) == 0
        lines = (out / "backbone" / "metrics.jsonl").read_text().splitlines()
        losses[budget] = [json.loads(line)["loss"] for line in lines]
    assert losses["8"] == pytest.approx(losses["0"], rel=2e-3)  # the cache is float16
    assert losses["0"][-1] < losses["0"][0]
    names = load_file(tmp_path / "0/backbone/align/trainable.safetensors")
    assert {name.split(".")[2] for name in names} == {"projector_layernorm", "linear_1", "linear_2"}
    model, _ = load(tmp_path / "0" / "backbone" / "checkpoint")
    assert type(model) is VipLlavaForConditionalGeneration
    assert not torch.equal(model.model.multi_modal_projector.projector_layernorm.bias, torch.zeros(80))
    before = load_vision_tower(get_vision_tower(tower)).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.model.vision_tower.state_dict().items())

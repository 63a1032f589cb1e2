"""The towers: transformers' own classes, image tokens as the rows say, class tokens dropped where there are some."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlavaForConditionalGeneration,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    VipLlavaForConditionalGeneration,
)

from vlm_backbones.errors import CheckpointError, ConfigError
from vlm_backbones.vision import get_vision_tower
from vlm_backbones.vision.preprocessing import build_image_processor, preprocess_images
from vlm_backbones.vlm.composition import build_skeleton, compose, load_vision_tower
from vlm_backbones.vlm.full_size import vision_config
from vlm_backbones.vlm.towers import TOWER_CLASSES, check_tower
from vlm_backbones.vlm.whole_weights import check_tower_files

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
FULL = {  # the hub's config.json of each row
    "clip-vit-l-224": CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=224,
        patch_size=14,
    ),
    "clip-vit-l-336": CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14,
    ),
    "siglip-so400m-384": SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, image_size=384,
        patch_size=14,
    ),
    "dinov2-l": Dinov2Config(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=518,
                             patch_size=14),
}  # fmt: skip
FULL["clip-vit-l-336-vip"] = FULL["clip-vit-l-336"]
FULL["siglip2-so400m-384"] = FULL["siglip-so400m-384"]


def write_tower(folder: Path, family: str) -> Path:
    """Write a small tower as its hub repository holds it: CLIP and SigLIP with their text halves."""
    torch.manual_seed(0)
    if family == "clip":
        vision = CLIPVisionConfig(**SMALL, image_size=224, patch_size=14)
        CLIPModel(CLIPConfig(vision_config=vision.to_dict(), text_config=SMALL)).save_pretrained(folder)
        CLIPImageProcessor().save_pretrained(folder)
    elif family == "siglip":
        sizes: dict[str, Any] = {**SMALL, "image_size": 384, "patch_size": 14}
        SiglipModel(SiglipConfig(vision_config=sizes, text_config=SMALL)).save_pretrained(folder)
        size = {"height": 384, "width": 384}
        SiglipImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=2).save_pretrained(folder)
    else:
        Dinov2Model(Dinov2Config(**SMALL, mlp_ratio=2, image_size=518, patch_size=14)).save_pretrained(folder)
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        BitImageProcessor(image_mean=mean, image_std=std, size={"shortest_edge": 256}).save_pretrained(folder)
        (folder / "vision_tower.yaml").write_text("image_size: 336\n")
    return folder


@pytest.mark.parametrize(
    ("family", "kind", "class_tokens", "image_tokens"),
    [("clip", CLIPVisionModel, 1, 256), ("siglip", SiglipVisionModel, 0, 729), ("dinov2", Dinov2Model, 1, 576)],
)
def test_a_tower_as_its_repository_holds_it_gives_the_rows_image_tokens(
    tmp_path: Path, parts: Path, family: str, kind: type, class_tokens: int, image_tokens: int
) -> None:
    folder = write_tower(tmp_path / family, family)
    row = get_vision_tower(folder)
    assert (row.class_tokens, row.image_tokens) == (class_tokens, image_tokens)
    model, processor = compose(parts / "backbone", folder)
    tower = model.model.vision_tower
    assert type(tower) is kind
    picture = Image.effect_noise((90, 60), 80).convert("RGB")
    pixels = preprocess_images(processor.image_processor, [picture])
    with torch.inference_mode():
        features = model.get_image_features(pixels).pooler_output[0]
        states = tower(pixels, output_hidden_states=True).hidden_states
        wanted = model.model.multi_modal_projector(states[-2][0, class_tokens:])
    assert states[-2].shape == (1, image_tokens + class_tokens, 32)
    assert torch.equal(features, wanted)
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}], tokenize=False
    )
    ids = processor(images=picture, text=prompt)["input_ids"][0]
    assert list(ids).count(processor.image_token_id) == image_tokens


def test_the_padding_has_each_towers_own_mean_and_filter(tmp_path: Path) -> None:
    processor = build_image_processor(get_vision_tower(write_tower(tmp_path / "siglip", "siglip")))
    assert (processor.do_pad, processor.resample, list(processor.image_mean)) == (True, 2, [0.5] * 3)
    pixels = preprocess_images(processor, [Image.new("RGB", (40, 20), "white")])
    assert pixels.shape == (1, 3, 384, 384)
    assert float(pixels[0, 0, 0, 0]) == pytest.approx(127 / 255 / 0.5 - 1, abs=1e-6)  # int(255 * 0.5), not white
    assert float(pixels[0, 0, 192, 192]) == 1.0


@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2"])
def test_a_tower_that_does_not_pad_still_gets_its_rows_size(tmp_path: Path, family: str) -> None:
    folder = write_tower(tmp_path / family, family)
    (folder / "vision_tower.yaml").write_text("pad_to_square: false\nimage_size: 224\n")
    row = get_vision_tower(folder)
    pixels = preprocess_images(build_image_processor(row), [Image.new("RGB", (300, 260), "red")])
    assert pixels.shape == (1, 3, 224, 224)


@pytest.mark.parametrize("name", FULL)
def test_each_full_size_tower_fits_its_row(name: str) -> None:
    """On `meta`: the row's image tokens are what the real tower makes of a picture of the row's size."""
    row, config = get_vision_tower(name), FULL[name]
    check_tower(row, config)
    with torch.device("meta"):
        tower = TOWER_CLASSES[row.family](config)
        states = tower(torch.empty(1, 3, row.image_size, row.image_size), output_hidden_states=True).hidden_states
    assert all(states[layer].shape[1] == row.image_tokens + row.class_tokens for layer in row.feature_layers)


@pytest.mark.parametrize(
    ("name", "kind", "shapes"),
    [
        ("clip-vit-l-336", LlavaForConditionalGeneration, {"linear_1.weight": (4096, 1024)}),
        (
            "clip-vit-l-336-vip",
            VipLlavaForConditionalGeneration,
            {"linear_1.weight": (4096, 5120), "projector_layernorm.weight": (5120,)},
        ),
        ("siglip2-so400m-384", LlavaForConditionalGeneration, {"linear_1.weight": (4096, 1152)}),
    ],
)
def test_full_size_vlms_have_the_published_projectors(name: str, kind: type, shapes: dict[str, Any]) -> None:
    text = LlamaConfig(hidden_size=4096, num_hidden_layers=1, num_attention_heads=32, vocab_size=32000)
    model = build_skeleton(text, FULL[name], get_vision_tower(name), 32000)
    assert type(model) is kind
    state = model.model.multi_modal_projector.state_dict()
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.config.image_seq_length == get_vision_tower(name).image_tokens


@pytest.mark.parametrize("layer", [-26, 25])
def test_a_layer_out_of_range_is_refused(layer: int) -> None:
    with pytest.raises(ConfigError, match=r"'?clip-vit-l-336.*: no feature layer -?\d+; it has 25 hidden states"):
        check_tower(_changed("clip-vit-l-336", feature_layer=layer), FULL["clip-vit-l-336"])


def test_a_layer_out_of_range_of_a_local_tower_names_the_range(tmp_path: Path, parts: Path) -> None:
    folder = write_tower(tmp_path / "clip", "clip")
    (folder / "vision_tower.yaml").write_text(yaml.safe_dump({"feature_layer": [-2, 5]}))
    with pytest.raises(ConfigError, match="no feature layer 5; it has 5 hidden states, -5 to 4"):
        load_vision_tower(get_vision_tower(folder))


def test_sizes_that_contradict_the_row_and_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"image_size of openai/.* is 336, its row says 224"):
        check_tower(get_vision_tower("clip-vit-l-224"), FULL["clip-vit-l-336"])
    folder = write_tower(tmp_path / "clip", "clip")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 6
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"lacks weights that .* asks for: 32 tensors"):  # 2 layers of 16 tensors
        load_vision_tower(get_vision_tower(folder))


@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2"])
def test_a_towers_weights_are_looked_at_where_they_lie_and_once_loaded(tmp_path: Path, family: str) -> None:
    """As a backbone's; the text half of its repository has no place and is none that is missed."""
    folder = write_tower(tmp_path / family, family)
    row = get_vision_tower(folder)
    file = folder / "model.safetensors"
    whole = load_file(file)

    def look() -> None:
        check_tower_files(row, vision_config(row), TOWER_CLASSES[family])

    look()
    name = next(name for name in whole if name.endswith("fc1.weight") and not name.startswith("text_model"))
    for tensors, said in (
        (
            whole | {name: whole[name] * torch.nan},
            rf"{file} holds NaN or infinity in 1 tensor \({name}\).*vision tower",
        ),
        (whole | {name: whole[name] * 0}, rf"{file} holds one value only in 1 tensor \({name}\)"),
        (
            {key: whole[key] for key in whole if key != name},
            r"lacks weights that .* asks for: 1 tensor \(.*fc1\.weight\)",
        ),
    ):
        save_file(tensors, file, metadata={"format": "pt"})
        for attempt in (look, lambda: load_vision_tower(row)):
            with pytest.raises(CheckpointError, match=rf"vision tower .*{said}"):
                attempt()


def test_several_layers_need_a_class_token() -> None:
    with pytest.raises(ConfigError, match="several feature layers make a VipLlava"):
        _changed("siglip-so400m-384", feature_layer=(-2, 6))


def test_what_a_folder_says_of_its_tower_is_checked(tmp_path: Path) -> None:
    folder = write_tower(tmp_path / "clip", "clip")
    (folder / "vision_tower.yaml").write_text("feature_layers: [-2, 1]\n")
    with pytest.raises(ConfigError, match=r"unknown key 'feature_layers'\. Did you mean 'feature_layer'\?"):
        get_vision_tower(folder)
    (folder / "vision_tower.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected keys with values, found list"):
        get_vision_tower(folder)


def test_a_tower_with_another_number_of_tokens_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip2", "vision_config": {
        "model_type": "siglip2_vision_model", "patch_size": 16, "num_patches": 256}}))  # fmt: skip
    with pytest.raises(CheckpointError, match=r"fixed resolution.*found 'siglip2_vision_model'"):
        get_vision_tower(tmp_path)


def _changed(name: str, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(get_vision_tower(name), **changes)

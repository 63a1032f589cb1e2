"""A tiny random checkpoint in transformers' format and tiny datasets of the three tasks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

IMAGE_SIDE_PX, PATCH_PX, IMAGE_TOKENS = 56, 28, 5
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}USER: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %} "
    "{% else %}ASSISTANT: {% generation %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{{ eos_token }}"
    "{% endgeneration %}{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes, so that any text has tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>", "</s>", "<image>"]
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip


def make_checkpoint(folder: Path, *, seed: int = 0, max_tokens: int = 512) -> Path:
    """Write a two-layer LLaVA with random weights, wide enough that its answers differ."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            image_size=IMAGE_SIDE_PX, patch_size=PATCH_PX, projection_dim=32, initializer_factor=4.0,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=max_tokens, initializer_range=0.3,
            bos_token_id=1, eos_token_id=2, pad_token_id=0,
        ),
        image_token_index=3, vision_feature_layer=-2, vision_feature_select_strategy="full",
        image_seq_length=IMAGE_TOKENS,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    # One end-of-turn direction a little larger, so that some answers end early and some at the limit.
    with torch.no_grad():
        model.lm_head.weight[2] *= 2.5
    size = {"height": IMAGE_SIDE_PX, "width": IMAGE_SIDE_PX}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size=size, crop_size=size),
        tokenizer=tokenizer, patch_size=PATCH_PX, vision_feature_select_strategy="full",
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    )  # fmt: skip
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_image(seed: int) -> PILImage.Image:
    """Return a picture of a few coloured blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return PILImage.fromarray(blocks).resize((64, 64), PILImage.Resampling.NEAREST)


def make_datasets(folder: Path, *, rows: int = 24) -> Path:
    """Write the three tasks; every two questions of `vqa_scene` share a picture."""
    scene: list[dict[str, Any]] = []
    for index in range(rows):
        closed = index % 3 != 0
        scene.append({
            "image": make_image(index // 2), "question": "What colour" + " is it" * (index % 5) + f" {index}?",
            "paraphrase": f"Name the colour {index}.", "answers": ["red"], "options": ["red", "blue"] if closed else [],
            "question_type": "colour" if closed else "open", "image_id": f"i{index // 2}",
            "question_id": f"q{index}", "targets": json.dumps({"colour": "red"}),
        })  # fmt: skip
    events = [
        {
            "image": make_image(100 + index), "event_id": f"e{index}", "image_id": f"m{index}", "frame": "Japan",
            "latitude": 30.0 + index, "longitude": 140.0 - index, "description": "A magnitude 6.0 earthquake.",
            "magnitude": 6.0, "depth_km": 20.0, "region": "Japan", "quadrant": "northeast", "max_intensity": "VI",
            "targets": json.dumps({"magnitude": 6.0}),
        }
        for index in range(rows)
    ]  # fmt: skip
    columns = {
        "vqa_scene": list(scene[0]),
        "seismic_description": [
            "image", "event_id", "description", "magnitude", "depth_km", "region", "quadrant", "max_intensity",
            "image_id", "targets",
        ],
        "seismic_coords": ["image", "event_id", "latitude", "longitude", "frame", "image_id", "targets"],
    }  # fmt: skip
    for task, names in columns.items():
        source = scene if task == "vqa_scene" else events
        features = Features({name: _feature(name, source[0][name]) for name in names})
        table = Dataset.from_list([{name: row[name] for name in names} for row in source], features=features)
        DatasetDict({"test": table}).save_to_disk(str(folder / task))
    return folder


def _feature(name: str, value: Any) -> Any:
    if name == "image":
        return Image()
    if isinstance(value, list):
        return List(Value("string"))
    return Value("float64" if isinstance(value, float) else "string")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_datasets(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def scene_rows(data: Path) -> Any:
    from datasets import load_from_disk

    return load_from_disk(str(data / "vqa_scene"))["test"]


@pytest.fixture
def environment(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_BACKBONES_DATA", str(data))
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))


@pytest.fixture
def build() -> Any:
    """Return a function of checkpoint, rows of `vqa_scene` and batch size that builds the model."""
    from vlm_backbones.model_wrappers.backbone_vlm import BackboneVLM

    def built(checkpoint: Path, rows: Any, batch_size: int | str) -> BackboneVLM:
        model = BackboneVLM(pretrained=str(checkpoint), batch_size=batch_size, device="cpu")
        model.task_dict = {"vqa_scene": {"test": rows}}
        return model

    return built


@pytest.fixture
def ask() -> Any:
    """Return a function of context, settings, images and row that makes a request of lmms-eval."""
    from lmms_eval.api.instance import Instance

    def request(context: str, settings: Any, visual: Any, doc_id: int) -> Instance:
        arguments = (context, settings, visual, doc_id, "vqa_scene", "test")
        metadata = {"task": "vqa_scene", "doc_id": doc_id, "repeats": 1}
        return Instance(request_type="generate_until", arguments=arguments, idx=0, metadata=metadata)

    return request


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Return a function that sets torch's threads, which say how many answer side by side; they are given back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)

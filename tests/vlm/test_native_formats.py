"""A composed VLM speaks its chat format, stops where the format ends, and can pad whatever its tokenizer lacks."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from vlm_backbones.backbones import registry
from vlm_backbones.data.chat_format import get_chat_template
from vlm_backbones.errors import ConfigError
from vlm_backbones.vlm import compose, load, save


def without(folder: Path, *tokens: str, **added: str) -> Path:
    """Take special tokens out of a saved tokenizer's settings, or add some."""
    path = folder / "tokenizer_config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key not in tokens}
    path.write_text(json.dumps({**config, **added}))
    return folder


def test_native_is_the_registry_rows_format(
    tiny_parts: ModuleType, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_parts.build_backbone(tmp_path / "backbone")
    row = registry.Backbone(id="tiny", family="llama", chat_format="vicuna_v1", local_path=str(backbone))
    monkeypatch.setitem(registry.BACKBONES._rows, "tiny", row)
    model, processor = compose("tiny", parts / "tower")
    assert processor.chat_template == get_chat_template("vicuna_v1", processor.tokenizer)
    save(model, processor, tmp_path / "vlm")
    reopened, processor = load(tmp_path / "vlm")
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    prompt = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert prompt.endswith("USER: <image>\nWhat is it? ASSISTANT:")
    assert reopened.generation_config.eos_token_id == processor.tokenizer.eos_token_id


def test_generation_stops_at_the_formats_end_of_turn_too(tiny_parts: ModuleType, parts: Path, tmp_path: Path) -> None:
    backbone = tiny_parts.build_backbone(tmp_path / "backbone")
    with pytest.raises(ConfigError, match=r"no answer would ever end\. Name a chat_format that fits it"):
        compose(backbone, parts / "tower", chat_format="llava_phi_3")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(backbone)
    tokenizer.add_tokens(["<|end|>"], special_tokens=True)
    tokenizer.save_pretrained(backbone)
    model, processor = compose(backbone, parts / "tower", chat_format="llava_phi_3")
    ids = processor.tokenizer.convert_tokens_to_ids(["</s>", "<|end|>"])
    assert model.generation_config.eos_token_id == ids


def test_a_tokenizer_without_padding_still_answers_two_questions_at_once(
    tiny_parts: ModuleType, parts: Path, tmp_path: Path
) -> None:
    backbone = without(tiny_parts.build_backbone(tmp_path / "backbone"), "pad_token", padding_side="right")
    model, processor = compose(backbone, parts / "tower")
    assert processor.tokenizer.pad_token == "</s>"
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id
    texts = ["<s>Q: <image>\nWhat is it?\nA:", "<s>Q: <image>\nWhat colour is the star?\nA:"]
    picture = Image.new("RGB", (112, 112))
    inputs = processor(
        images=[picture, picture], text=texts, padding=True, add_special_tokens=False, return_tensors="pt"
    )
    alone = processor(images=picture, text=texts[0], add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        both = model.generate(**inputs, max_new_tokens=3)[0, -3:]
        one = model.generate(**alone, max_new_tokens=3)[0, -3:]
    assert both.tolist() == one.tolist()


def test_a_tokenizer_without_an_end_token_is_refused(tiny_parts: ModuleType, parts: Path, tmp_path: Path) -> None:
    backbone = without(tiny_parts.build_backbone(tmp_path / "backbone"), "eos_token")
    with pytest.raises(ConfigError, match=r"cannot be rendered .* Does the tokenizer have an eos_token\?"):
        compose(backbone, parts / "tower", chat_format="vicuna_v1")

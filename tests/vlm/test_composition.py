"""Composition: the parts keep their weights, the image token is added only where missing, checkpoints open anywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionModel,
    LlavaForConditionalGeneration,
)

from vlm_backbones.errors import CheckpointError, ConfigError, DataError
from vlm_backbones.vlm import checkpoint_fingerprint, compose, load, save

MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What colour is the star?"}]}]


def first_logits(model: Any, processor: Any) -> torch.Tensor:
    prompt = processor.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    picture = Image.new("RGB", (112, 112), "red")
    inputs = processor(images=picture, text=prompt, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs).logits


@pytest.fixture(scope="module")
def checkpoint(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "vlm"
    save(*compose(parts / "backbone", parts / "tower"), path, card="# a card")
    return path


def test_composition_keeps_the_parts_weights_and_their_text_logits(parts: Path) -> None:
    model, processor = compose(parts / "backbone", parts / "tower")
    llm = AutoModelForCausalLM.from_pretrained(parts / "backbone").eval()
    tower = CLIPVisionModel.from_pretrained(parts / "tower")
    assert isinstance(model, LlavaForConditionalGeneration)
    for name, value in tower.state_dict().items():
        assert torch.equal(model.model.vision_tower.state_dict()[name], value)
    ids = AutoTokenizer.from_pretrained(parts / "backbone")("two red stars", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        assert torch.equal(model(input_ids=ids).logits, llm(input_ids=ids).logits)
    assert processor.num_additional_image_tokens == 1


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_checkpoint_opens_in_plain_transformers_with_the_same_outputs(
    tiny_parts: ModuleType, parts: Path, tmp_path: Path, tied: bool
) -> None:
    backbone = tiny_parts.build_backbone(tmp_path / "backbone", tied=tied)
    model, processor = compose(backbone, parts / "tower")
    save(model, processor, tmp_path / "vlm")
    wanted = first_logits(model, processor)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "vlm").eval()
    assert torch.equal(first_logits(plain, AutoProcessor.from_pretrained(tmp_path / "vlm", backend="pil")), wanted)
    torchvision = first_logits(plain, AutoProcessor.from_pretrained(tmp_path / "vlm"))  # its default: rounds otherwise
    assert torch.allclose(torchvision, wanted, atol=1e-4)
    ours, our_processor = load(tmp_path / "vlm")
    assert torch.equal(first_logits(ours, our_processor), wanted)
    assert our_processor.chat_template == processor.chat_template
    tie = ours.lm_head.weight.data_ptr() == ours.model.language_model.embed_tokens.weight.data_ptr()
    assert tie == tied
    assert ours.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert ours.generation_config.pad_token_id == processor.tokenizer.pad_token_id


@pytest.mark.parametrize("tied", [True, False])
def test_a_missing_image_token_is_added_with_mean_embeddings(
    tiny_parts: ModuleType, parts: Path, tmp_path: Path, tied: bool
) -> None:
    backbone = tiny_parts.build_backbone(tmp_path / "backbone", image_token=False, tied=tied)
    rows = AutoModelForCausalLM.from_pretrained(backbone).get_input_embeddings().weight
    model, processor = compose(backbone, parts / "tower", chat_format="shared")
    embeddings = model.get_input_embeddings().weight
    assert len(embeddings) == len(rows) + 1 == model.config.text_config.vocab_size
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == len(rows) == model.config.image_token_id
    assert torch.allclose(embeddings[-1], rows.mean(0), atol=1e-6)
    save(model, processor, tmp_path / "vlm")
    assert torch.equal(first_logits(*load(tmp_path / "vlm")), first_logits(model, processor))


def test_the_projector_starts_at_the_size_of_word_embeddings(parts: Path) -> None:
    model, _ = compose(parts / "backbone", parts / "tower", seed=3)
    same, _ = compose(parts / "backbone", parts / "tower", seed=3)
    words = float(model.get_input_embeddings().weight.detach().std())
    with torch.inference_mode():
        out = model.model.multi_modal_projector(torch.randn(2000, 32))
    assert words < float(out.std()) < 4 * words
    assert torch.equal(
        model.model.multi_modal_projector.linear_2.weight, same.model.multi_modal_projector.linear_2.weight
    )


def test_native_chat_format_needs_generation_marks(tiny_parts: ModuleType, parts: Path, tmp_path: Path) -> None:
    backbone = tiny_parts.build_backbone(tmp_path / "backbone", template=None)
    with pytest.raises(ConfigError, match="Use chat_format: shared"):
        compose(backbone, parts / "tower")
    with pytest.raises(ConfigError, match="Did you mean 'shared'"):
        compose(backbone, parts / "tower", chat_format="sharde")


def test_the_fingerprint_names_the_content_not_the_place(checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    assert checkpoint_fingerprint(copy) == checkpoint_fingerprint(checkpoint)
    (copy / "README.md").write_text("another card")
    assert checkpoint_fingerprint(copy) == checkpoint_fingerprint(checkpoint)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "image_seq_length": 18}))
    assert checkpoint_fingerprint(copy) != checkpoint_fingerprint(checkpoint)


def test_a_folder_that_cannot_be_loaded_says_why(checkpoint: Path, parts: Path, tmp_path: Path) -> None:
    def spoiled(name: str, *remove: str) -> Path:
        copy = shutil.copytree(checkpoint, tmp_path / name)
        for file in remove:
            (copy / file).unlink()
        return copy

    with pytest.raises(CheckpointError, match="is not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(
        CheckpointError, match=r"architecture LlamaForCausalLM, expected LlavaFor.*vlm-backbones compose"
    ):
        load(parts / "backbone")
    with pytest.raises(CheckpointError, match=r"has no weights.*Copy or download the whole folder again"):
        load(spoiled("weightless", "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"lacks its processor.*Copy or download"):
        load(spoiled("unprocessed", "tokenizer.json"))
    broken = spoiled("broken")
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match=r"cannot be loaded.*Copy or download"):
        load(broken)
    cut = spoiled("cut")
    with (cut / "model.safetensors").open("r+b") as weights:
        weights.truncate(weights.seek(0, 2) // 2)
    with pytest.raises(CheckpointError, match=r"cannot be loaded.*Copy or download"):
        load(cut)


@pytest.mark.parametrize(
    ("file", "content", "found"),
    [
        ("config.json", "[]", r"config\.json holds \[\], expected a JSON object"),
        ("config.json", '{"architectures": 5}', "architecture nothing, expected"),
        ("tokenizer.json", "{}", r"processor cannot be loaded \(KeyError"),
        ("tokenizer.json", "{", r"processor cannot be loaded \(JSONDecodeError"),
        ("generation_config.json", "[]", r"model cannot be loaded \(TypeError"),
    ],
)
def test_a_damaged_file_is_an_error_of_ours(
    checkpoint: Path, tmp_path: Path, file: str, content: str, found: str
) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (copy / file).write_text(content)
    with pytest.raises(CheckpointError, match=found):
        load(copy)


def test_weights_without_a_place_are_refused_with_their_names(checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if "projector" in name)
    save_file({**weights, "of.another.model": torch.zeros(2)}, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights have no place in Llava.* \(of\.another\.model\)"):
        load(copy)
    del weights[name]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"1 weights are missing \(.*{re.escape(name.rpartition('.')[2])}\)"):
        load(copy)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_weights_that_may_not_be_read_are_not_called_missing(checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (copy / "model.safetensors").chmod(0)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read \(Permission denied\)"):
        load(copy)


def test_a_failed_save_leaves_the_old_checkpoint_and_nothing_else(
    checkpoint: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shutil.copytree(checkpoint, tmp_path / "vlm")
    model, processor = load(place)

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(processor, "save_pretrained", full_disk)
    with pytest.raises(DataError, match="No space left on device"):
        save(model, processor, place)
    assert [path.name for path in tmp_path.iterdir()] == ["vlm"]
    assert checkpoint_fingerprint(place) == checkpoint_fingerprint(checkpoint)


def test_a_process_that_is_handed_its_share_reads_no_weights_of_the_llm(
    tiny_parts: ModuleType, parts: Path, tmp_path: Path
) -> None:
    backbone = tiny_parts.build_backbone(tmp_path / "llm", image_token=False)
    whole, _ = compose(backbone, parts / "tower")
    (backbone / "model.safetensors").unlink()
    empty, processor = compose(backbone, parts / "tower", weights=False)
    shapes = [{name: value.shape for name, value in model.named_parameters()} for model in (whole, empty)]
    assert shapes[0] == shapes[1]
    assert empty.lm_head.weight is empty.model.language_model.embed_tokens.weight  # tied as in the whole
    for name, buffer in whole.named_buffers():  # rotary tables, which nobody hands on
        assert torch.equal(dict(empty.named_buffers())[name], buffer), name
    assert empty.config.image_token_id == processor.tokenizer.convert_tokens_to_ids("<image>")

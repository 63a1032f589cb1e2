"""One start token, whichever way a saved checkpoint is asked; two only where the original project kept two."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import processors
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, pipeline

from vlm_backbones.data.chat_format import chat_messages, encode_chats
from vlm_backbones.vlm import compose, convert, load, save

PICTURE = Image.fromarray(np.random.default_rng(7).integers(0, 256, (61, 90, 3), dtype=np.uint8))
ORIGINALS = {"vicuna": 1, "vip": 1, "llama-3": 1, "llama-3-new": 2, "phi-3": 1, "linear": 1}
COMPOSED = [
    *(("vicuna", name) for name in ("shared", "vicuna_v1", "llava_v1", "llava_llama_2")),
    *(("llama-3-new", name) for name in ("shared", "llava_llama_3")),
    *(("phi-3", name) for name in ("shared", "llava_phi_3")),
]


def messages(**image: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", **image}, {"type": "text", "text": "What is it?"}]}]


def ids_by_way(folder: Path) -> dict[str, list[int]]:
    """Return the prompt's ids by each way that a chat can take into a checkpoint of ours."""
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    image_tokens = json.loads((folder / "config.json").read_text())["image_seq_length"]
    ask = pipeline("image-text-to-text", model=str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = processor.apply_chat_template(messages(), add_generation_prompt=True, tokenize=False)
    served = text.replace("<image>", "<image>" * image_tokens)
    whole = processor.apply_chat_template(
        messages(image=PICTURE), add_generation_prompt=True, tokenize=True, return_dict=True
    )
    found = {
        "tokenize=True": np.asarray(whole["input_ids"])[0].tolist(),
        "two steps": processor(text=text, images=PICTURE)["input_ids"][0],
        "several at once": processor(text=[text, text], images=[PICTURE, PICTURE], padding=True)["input_ids"][1],
        "a server": tokenizer(served)["input_ids"],
        "a careful server": tokenizer(served, add_special_tokens=False)["input_ids"],
    }
    for name, asked in {
        "pipeline of a chat": {"text": messages(image=PICTURE)},
        "pipeline of a text": {"text": text, "images": PICTURE},
    }.items():
        (answer,) = ask(**asked, return_tensors=True, generate_kwargs={"max_new_tokens": 1, "min_new_tokens": 1})
        found[name] = np.ravel(answer["generated_token_ids"]).tolist()[:-1]
    return {name: [int(token) for token in ids] for name, ids in found.items()}


def llm_folder(originals: ModuleType, folder: Path, kind: str) -> tuple[Path, Path]:
    """Write an LLM whose tokenizer adds a start token, in a published kind's files, and a tower."""
    original = originals.build(folder / "checkpoint", kind)
    tower = original.tower_folder or originals.build(folder / "other", "vicuna").tower_folder
    assert tower is not None
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        if (original.folder / name).is_file():
            (folder / "llm").mkdir(exist_ok=True)
            (folder / "llm" / name).write_bytes((original.folder / name).read_bytes())
    original.llm.save_pretrained(folder / "llm")
    added = AutoTokenizer.from_pretrained(folder / "llm")
    assert added("a")["input_ids"][0] == added.bos_token_id
    return folder / "llm", tower


@pytest.mark.parametrize("kind", ORIGINALS)
def test_a_converted_checkpoint_sees_the_original_ids_by_every_way(
    originals: ModuleType, tmp_path: Path, kind: str
) -> None:
    original = originals.build(tmp_path / "checkpoint", kind)
    convert(original.folder, tmp_path / "converted", vision_tower=original.tower_folder)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "converted")
    image = tokenizer.convert_tokens_to_ids("<image>")
    wanted: list[int] = []
    for token in original.prompt_ids():
        wanted += [image] * 16 if token == -200 else [token]
    assert wanted.count(tokenizer.bos_token_id) == ORIGINALS[kind]
    found = ids_by_way(tmp_path / "converted")
    assert found == dict.fromkeys(found, wanted)


@pytest.mark.parametrize(("kind", "chat_format"), COMPOSED)
def test_a_composed_vlm_sees_the_ids_of_its_training_by_every_way(
    originals: ModuleType, tmp_path: Path, kind: str, chat_format: str
) -> None:
    llm, tower = llm_folder(originals, tmp_path, kind)
    raw = AutoTokenizer.from_pretrained(llm)
    raw.add_tokens(["<image>"], special_tokens=True)
    model, processor = compose(llm, tower, chat_format=chat_format)
    chat = chat_messages([("What is it?", "A dot.")], with_image=True)
    (trained,) = encode_chats(processor.tokenizer, processor.chat_template, [chat])
    assert encode_chats(raw, processor.chat_template, [chat]) == [trained]  # labels are cut at the same tokens
    image = processor.image_token_id
    prompt = trained.ids[: trained.supervised.index(True)]
    wanted = [token for id_ in prompt for token in ([id_] * 17 if id_ == image else [id_])]  # 4 x 4 and the class
    assert wanted.count(processor.tokenizer.bos_token_id) == 1
    save(model, processor, tmp_path / "vlm")
    found = ids_by_way(tmp_path / "vlm")
    assert found == dict.fromkeys(found, wanted)


def test_the_logits_are_the_same_by_both_calls(originals: ModuleType, tmp_path: Path) -> None:
    """With two start tokens they move by tenths."""
    original = originals.build(tmp_path / "checkpoint", "vip")
    convert(original.folder, tmp_path / "converted")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "converted").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "converted", backend="pil")
    text = processor.apply_chat_template(messages(), add_generation_prompt=True, tokenize=False)
    with torch.inference_mode():
        found = model(**processor(text=text, images=PICTURE, return_tensors="pt")).logits[0]
    wanted = original.logits(PICTURE)
    assert torch.allclose(found[:, : wanted.shape[1]], wanted, atol=1e-4)


def test_a_tokenizer_keeps_the_rest_of_its_post_processor(tiny_parts: ModuleType, parts: Path, tmp_path: Path) -> None:
    """Llama 3's trims its tokens' offsets and adds the start token; GPT-2's kind of file does the first alone."""
    backbone = tiny_parts.build_backbone(tmp_path / "llm")
    raw = AutoTokenizer.from_pretrained(backbone)
    trim = processors.ByteLevel(trim_offsets=True)
    start = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", raw.bos_token_id)])
    raw.backend_tokenizer.post_processor = processors.Sequence([trim, start])
    raw.save_pretrained(backbone)
    save(*compose(backbone, parts / "tower"), tmp_path / "vlm")
    tokenizer = load(tmp_path / "vlm")[1].tokenizer
    assert tokenizer("a star")["input_ids"] == raw("a star", add_special_tokens=False)["input_ids"]
    offsets = tokenizer("a star", return_offsets_mapping=True)["offset_mapping"]
    assert offsets == raw("a star", add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert (1, 2) not in offsets  # the space is trimmed, not a token's start
    assert all(start != 1 for start, _ in offsets)
    settings = json.loads((tmp_path / "vlm" / "tokenizer_config.json").read_text())
    assert settings["add_bos_token"] is False  # what transformers 4 builds Llama's post-processor from

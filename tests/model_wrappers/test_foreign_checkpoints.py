"""Checkpoints that others made: `llava-hf/*` as they are, and the original format, through `pretrained=`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lmms_eval.api.instance import Instance
from PIL import Image
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from vlm_backbones.errors import CheckpointError
from vlm_backbones.model_wrappers._prompting import Prompter
from vlm_backbones.model_wrappers.backbone_vlm import BackboneVLM
from vlm_backbones.tasks.common import doc_to_visual
from vlm_backbones.tasks.vqa_scene.utils import doc_to_text
from vlm_backbones.vlm import convert

# As published with llava-hf/llava-1.5-7b-hf: no system prompt, no BOS, a space after the answer and no end of turn.
HF_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}{% for content in message['content'] | selectattr('type', 'equalto', "
    "'text') %}{{ content['text'] + ' '}}{% endfor %}{% else %}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'text') %}{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
VIP_LAYERS = [-2, -5, -8, -11, 6]


def hf_tokenizer() -> Any:
    """Return single bytes with a start token that the tokenizer adds, as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    special = ["<unk>", "<s>", "</s>"]
    vocabulary = {token: index for index, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.add_tokens(["<image>", "<pad>"], special_tokens=True)
    fast.pad_token = "<pad>"
    return fast


def hf_checkpoint(folder: Path, *, vip: bool, legacy: bool = False) -> Path:
    """Write a folder with the files and keys of llava-hf's: 336 becomes 56 pixels, 32064 rows become 320."""
    torch.manual_seed(3)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=12, num_attention_heads=2, image_size=56,
        patch_size=14, initializer_factor=4.0,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, initializer_range=0.3, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    tokenizer = hf_tokenizer()
    common = {"vision_config": vision, "text_config": text, "image_token_index": len(tokenizer) - 2}
    model: Any
    if vip:
        model = VipLlavaForConditionalGeneration(VipLlavaConfig(**common, vision_feature_layer=VIP_LAYERS))
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(**common, image_seq_length=16))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = len(tokenizer) - 1, 2
    model.save_pretrained(folder)
    size = {"height": 56, "width": 56}
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=size), tokenizer, patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": HF_TEMPLATE}))
    if legacy:  # before the processor knew the patches, and before the layers were a list
        config = json.loads((folder / "config.json").read_text()) | {"vision_feature_layer": -2}
        (folder / "config.json").write_text(json.dumps(config))
        processor = json.loads((folder / "processor_config.json").read_text())
        for name in ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"):
            processor.pop(name, None)
        (folder / "processor_config.json").write_text(json.dumps(processor))
    return folder


def ask(checkpoint: Path, rows: Any, batch_size: int = 8) -> list[Any]:
    model = BackboneVLM(pretrained=str(checkpoint), batch_size=batch_size, device="cpu")
    model.task_dict = {"vqa_scene": {"test": rows}}
    requests = [
        Instance(
            request_type="generate_until",
            arguments=(doc_to_text(row), {"max_new_tokens": 6, "score_options": "options"}, doc_to_visual, index,
                       "vqa_scene", "test"),
            idx=0,
            metadata={"task": "vqa_scene", "doc_id": index, "repeats": 1},
        )
        for index, row in enumerate(rows)
    ]  # fmt: skip
    return model.generate_until(requests)


@pytest.mark.parametrize(("vip", "legacy"), [(False, False), (False, True), (True, False), (True, True)])
def test_llava_hf_checkpoints_answer_as_in_plain_transformers(
    scene_rows: Any, tmp_path: Path, vip: bool, legacy: bool
) -> None:
    rows = scene_rows.select(range(6))
    folder = hf_checkpoint(tmp_path / "hf", vip=vip, legacy=legacy)
    ours = ask(folder, rows)
    whole = folder if not legacy else hf_checkpoint(tmp_path / "whole", vip=vip)
    model = AutoModelForImageTextToText.from_pretrained(whole).eval()
    processor = AutoProcessor.from_pretrained(whole, backend="pil")
    for row, (text, counts) in zip(rows, ours, strict=True):
        prompt = f"USER: <image>\n{doc_to_text(row)} ASSISTANT:"
        inputs = processor(images=row["image"], text=prompt, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, length:]
        assert counts["input_tokens"] == length
        assert text == processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
        for option, value in (counts["reasoning_tokens"]["option_logprobs"] or {}).items():
            answer = processor.tokenizer(f" {option}", add_special_tokens=False)["input_ids"] + [2]
            assert value == pytest.approx(logprob(model, inputs, torch.tensor(answer)), abs=1e-4)


@torch.inference_mode()
def logprob(model: Any, inputs: Any, answer: torch.Tensor) -> float:
    whole = torch.cat([inputs["input_ids"], answer[None]], dim=1)
    logits = model(input_ids=whole, pixel_values=inputs["pixel_values"]).logits[0]
    rows = logits[inputs["input_ids"].shape[1] - 1 : -1].float().log_softmax(-1)
    return float(rows.gather(1, answer[:, None]).sum())


@pytest.mark.parametrize("kind", ["vip", "llama-3", "phi-3"])
def test_an_original_checkpoint_answers_as_its_own_computation(
    originals: ModuleType, scene_rows: Any, tmp_path: Path, kind: str
) -> None:
    original = originals.build(tmp_path / "checkpoint", kind)
    rows = scene_rows.select(range(4))
    stops = {"vip": [2], "llama-3": [1, 4], "phi-3": None}[kind]
    for row, (text, counts) in zip(rows, ask(original.folder, rows), strict=True):
        asked = replace(original, prompt=original.prompt.replace("What is it?", doc_to_text(row)))
        ids, features = asked.prompt_ids(), asked.features(asked.pixels(row["image"].convert("RGB")))
        embed = asked.llm.get_input_embeddings()
        parts = [features if token == -200 else embed(torch.tensor([token])) for token in ids]
        embeddings = torch.cat(parts)[None]
        if stops is None:
            vocabulary = json.loads((original.folder / "tokenizer.json").read_text())["added_tokens"]
            stops = [row["id"] for row in vocabulary if row["content"] in ("<|endoftext|>", "<|end|>")]
        with torch.inference_mode():
            answer = asked.llm.generate(
                inputs_embeds=embeddings, max_new_tokens=6, do_sample=False, eos_token_id=stops, pad_token_id=0
            )[0].tolist()
        ended = next((index for index, token in enumerate(answer) if token in stops), len(answer))
        assert counts["input_tokens"] == embeddings.shape[1]
        assert counts["reasoning_tokens"]["token_count"] == min(ended + 1, 6)
        assert text == decoded(original.folder, answer[:ended])


def prompt_ids(folder: Path) -> tuple[list[int], list[int], int]:
    """Return our prompt's ids and transformers' own of one chat, one token an image, and the start token's id."""
    model = BackboneVLM(pretrained=str(folder), device="cpu")
    assert model.engine is not None
    prompter, processor = Prompter(model.engine), AutoProcessor.from_pretrained(folder, backend="pil")
    content = [{"type": "image", "image": Image.new("RGB", (56, 56))}, {"type": "text", "text": "What is it?"}]
    chat = [{"role": "user", "content": content}]
    encoded = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
    theirs = [int(token) for token in encoded["input_ids"][0]]
    image = model.engine.image_token_id
    once = [token for index, token in enumerate(theirs) if token != image or theirs[index - 1] != image]
    return prompter.ids([prompter.prompt("What is it?", 1)])[0], once, int(processor.tokenizer.bos_token_id)


@pytest.mark.parametrize("writes_start", [False, True])
def test_a_llava_hf_checkpoint_keeps_its_tokenizer_and_starts_once(tmp_path: Path, writes_start: bool) -> None:
    folder = hf_checkpoint(tmp_path / "hf", vip=False)
    template = ("{{ bos_token }}" if writes_start else "") + HF_TEMPLATE
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ours, theirs, start = prompt_ids(folder)
    assert ours == theirs
    assert ours[0] == start
    assert ours.count(start) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    model = BackboneVLM(pretrained=str(folder), device="cpu")
    assert model.engine is not None
    assert model.engine.tokenizer("a")["input_ids"][0] == start  # as it was saved


@pytest.mark.parametrize(("kind", "starts"), [("vicuna", 1), ("llama-3", 1), ("llama-3-new", 2), ("phi-3", 1)])
def test_a_converted_checkpoint_is_asked_with_the_ids_of_plain_transformers(
    originals: ModuleType, tmp_path: Path, kind: str, starts: int
) -> None:
    original = originals.build(tmp_path / "checkpoint", kind)
    convert(original.folder, tmp_path / "converted", vision_tower=original.tower_folder)
    ours, theirs, start = prompt_ids(tmp_path / "converted")
    assert ours == theirs
    assert ours.count(start) == starts
    if original.tower_folder is None:  # else it cannot be read without its tower
        assert prompt_ids_of_original(original.folder) == ours


def prompt_ids_of_original(folder: Path) -> list[int]:
    model = BackboneVLM(pretrained=str(folder), device="cpu")
    assert model.engine is not None
    prompter = Prompter(model.engine)
    return prompter.ids([prompter.prompt("What is it?", 1)])[0]


def decoded(folder: Path, ids: list[int]) -> str:
    from vlm_backbones.vlm import load

    return str(load(folder)[1].tokenizer.decode(ids, skip_special_tokens=True)).strip()


def test_a_processor_that_writes_the_wrong_number_of_image_tokens_is_refused(tmp_path: Path) -> None:
    folder = hf_checkpoint(tmp_path / "hf", vip=False)
    path = folder / "processor_config.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good | {"num_additional_image_tokens": 0}))
    with pytest.raises(CheckpointError, match="writes 15 image tokens for an image, the model has 16 features"):
        BackboneVLM(pretrained=str(folder), device="cpu")
    image = dict(good["image_processor"]) | {"crop_size": {"height": 42, "width": 42}}
    path.write_text(json.dumps(good | {"image_processor": image}))
    with pytest.raises(CheckpointError, match="pictures of 42 pixels, the vision tower takes 56"):
        BackboneVLM(pretrained=str(folder), device="cpu")


def test_a_vip_llava_that_truly_reads_one_layer_keeps_it(tmp_path: Path) -> None:
    from vlm_backbones.vlm import load

    folder = hf_checkpoint(tmp_path / "hf", vip=True)
    config = json.loads((folder / "config.json").read_text()) | {"vision_feature_layer": -2}
    model = VipLlavaForConditionalGeneration(VipLlavaConfig.from_dict(config))
    model.save_pretrained(folder)
    assert load(folder)[0].config.vision_feature_layer == -2
    weights = load_file(folder / "model.safetensors")
    assert weights["multi_modal_projector.projector_layernorm.weight"].shape == (16,)

"""Models, questions and peers of the evaluation benchmarks: a trained checkpoint, or random weights of real shapes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "SHAPES",
    "STRING_TO_PARTS",
    "Loaded",
    "load",
    "make_requests",
    "make_rows",
    "ours",
    "own_pictures",
    "peer",
    "save",
    "write",
]

OPTIONS = ["red", "green", "blue", "black"]
QUESTION = "What colour is the {size} {shape} at the {side}?"

# `llava_hf` hands the template one string; ours are written for parts. Without this it would answer another prompt.
STRING_TO_PARTS = """\
{%- set ns = namespace(parts=[]) -%}{%- for m in messages -%}{%- set ns.parts = ns.parts + [{'role': m['role'], \
'content': [{'type': 'image'}, {'type': 'text', 'text': m['content'].split('<image>')[-1].lstrip()}]}] -%}\
{%- endfor -%}{%- set messages = ns.parts -%}"""
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}USER: {% for c in m['content'] %}"
    "{{ '<image>\n' if c['type'] == 'image' else c['text'] }}{% endfor %} {% else %}ASSISTANT:\n"
    "{{ m['content'][0]['text'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:\n{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a tower and a backbone."""

    image_side_px: int
    patch_px: int
    tower: dict[str, int]
    backbone: dict[str, Any]
    vocabulary: int = 512


_POCKET = {"hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 4, "num_attention_heads": 4,
           "num_key_value_heads": 2, "max_position_embeddings": 2048, "initializer_range": 0.1}  # fmt: skip
_SMALL_TOWER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
_CLIP_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_LLAMA_2_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
               "num_key_value_heads": 32, "max_position_embeddings": 4096}  # fmt: skip
_LLAMA_3_8B = {**_LLAMA_2_7B, "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 8192,
               "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}  # fmt: skip
SHAPES = {
    "pocket": Shape(112, 28, _SMALL_TOWER, _POCKET),
    "pocket-576": Shape(336, 14, _SMALL_TOWER, _POCKET),
    "llava-1.5-7b": Shape(336, 14, _CLIP_L, _LLAMA_2_7B, 32_064),
    "llama-3-8b": Shape(336, 14, _CLIP_L, _LLAMA_3_8B, 128_320),
}


@dataclass(frozen=True)
class Loaded:
    """One model in memory, which both sides run."""

    engine: Any
    rows: Any  # a DatasetDict with the split test


def load(given: Any, *, dtype: str | None = None, compiled: bool = False) -> Loaded:
    """Return the checkpoint, or random weights of the shape, and as many questions as were asked for."""
    import torch

    from vlm_backbones.model_wrappers._engine import checkpoint_dir, load_engine

    device = torch.device(given.device)
    if given.checkpoint:
        engine = load_engine(checkpoint_dir(given.checkpoint), device=device, dtype=dtype, compiled=compiled)
        return Loaded(engine, task_rows(given.samples))
    shape = SHAPES[given.shape]
    wanted = getattr(torch, dtype) if dtype else torch.float32 if device.type == "cpu" else torch.bfloat16
    model, processor = build(shape, device, wanted)
    return Loaded(
        build_engine(model, processor, device, compiled=compiled), make_rows(given.samples, shape.image_side_px)
    )


def build(shape: Shape, device: Any, dtype: Any) -> tuple[Any, Any]:
    """Return a LLaVA of random weights, made on the device, and a processor whose tokenizer has a word for each row."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )
    from transformers.models.clip import CLIPImageProcessorPil

    tokenizer = _tokenizer(shape.vocabulary)
    vision = CLIPVisionConfig(
        **shape.tower, projection_dim=shape.tower["hidden_size"], image_size=shape.image_side_px,
        patch_size=shape.patch_px,
    )  # fmt: skip
    text = LlamaConfig(**shape.backbone, vocab_size=shape.vocabulary, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    patches = (shape.image_side_px // shape.patch_px) ** 2
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-2,
        vision_feature_select_strategy="default", image_seq_length=patches,
    )  # fmt: skip
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(default)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    size = {"height": shape.image_side_px, "width": shape.image_side_px}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=size, crop_size=size), tokenizer=tokenizer,
        patch_size=shape.patch_px,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=TEMPLATE,
    )  # fmt: skip
    return model.requires_grad_(False), processor


def build_engine(model: Any, processor: Any, device: Any, *, compiled: bool = False) -> Any:
    """Return our engine around a model in memory."""
    from vlm_backbones.model_wrappers._backbone import build_backbone
    from vlm_backbones.model_wrappers._compiled import CompiledStep
    from vlm_backbones.model_wrappers._engine import Engine
    from vlm_backbones.model_wrappers._room import measure_room

    return Engine(
        model=model, processor=processor, fingerprint="random", device=device,
        backbone=build_backbone(model.model.language_model, compiled=compiled),
        end_ids=frozenset({processor.tokenizer.eos_token_id}),
        max_tokens=model.config.text_config.max_position_embeddings,
        room=measure_room(model, device, compiled=compiled),
        compiled=CompiledStep(Engine.next_tokens) if compiled else None,
    )  # fmt: skip


def save(shape: str, folder: Path, dtype: str = "float32") -> Path:
    """Write a checkpoint of random weights."""
    import torch

    return write(*build(SHAPES[shape], torch.device("cpu"), getattr(torch, dtype)), folder)


def write(model: Any, processor: Any, folder: Path) -> Path:
    """Write what is in memory as a checkpoint."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def ours(loaded: Loaded, batch_size: str | int) -> Any:
    """Return our model around what is loaded."""
    from vlm_backbones.model_wrappers.backbone_vlm import BackboneVLM

    BackboneVLM.shared_engine = loaded.engine
    try:
        model = BackboneVLM(batch_size=batch_size)
    finally:
        BackboneVLM.shared_engine = None
    model.task_dict = {"vqa_scene": loaded.rows}
    return model


def peer(loaded: Loaded) -> Any:
    """Return stock `llava_hf` around what is loaded; it takes batches of one only."""
    from accelerate import Accelerator
    from lmms_eval.models.simple.llava_hf import LlavaHf

    model = LlavaHf.__new__(LlavaHf)  # its constructor reads from disk what is in memory already
    super(LlavaHf, model).__init__()
    processor = copy.deepcopy(loaded.engine.processor)
    processor.tokenizer.padding_side = "left"
    model._model, model._config = loaded.engine.model, loaded.engine.model.config
    model._image_processor, model._tokenizer = processor, processor.tokenizer
    model._device, model._rank, model._world_size = loaded.engine.device, 0, 1
    model.batch_size_per_gpu, model.use_cache, model.accelerator = 1, True, Accelerator(cpu=_on_cpu(loaded))
    model.chat_template = STRING_TO_PARTS + (processor.tokenizer.chat_template or processor.chat_template)
    model.task_dict = {"vqa_scene": loaded.rows}
    return model


def _on_cpu(loaded: Loaded) -> bool:
    return bool(loaded.engine.device.type == "cpu")


def task_rows(samples: int) -> Any:
    """Return a DatasetDict of the first questions of `vqa_scene`'s test split; every four share a picture."""
    from datasets import DatasetDict, load_from_disk

    from vlm_backbones.tasks.data import dataset_dir

    test = load_from_disk(str(dataset_dir("vqa_scene")))["test"]
    return DatasetDict({"test": test.select(range(min(samples, len(test))))})


def make_rows(samples: int, side_px: int) -> Any:
    """Return a DatasetDict of made-up questions; every four share a picture, as in `vqa_scene`."""
    import numpy as np
    from datasets import Dataset, DatasetDict, Features, Image, List, Value
    from PIL import Image as PILImage

    random = np.random.default_rng(0)
    pictures = [
        PILImage.fromarray(random.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize((side_px, side_px))
        for _ in range((samples + 3) // 4)
    ]
    words = [("small", "large"), ("circle", "square", "star"), ("left", "right", "top", "bottom")]
    rows = []
    for index in range(samples):
        size, shape, place = (choices[int(random.integers(len(choices)))] for choices in words)
        question = QUESTION.format(size=size, shape=shape, side=place)
        rows.append({"image": pictures[index // 4], "question": question, "options": OPTIONS})
    features = Features({"image": Image(), "question": Value("string"), "options": List(Value("string"))})
    return DatasetDict({"test": Dataset.from_list(rows, features=features)})


def own_pictures(rows: Any, samples: int) -> Any:
    """Return every fourth question: each has a picture of its own."""
    from datasets import DatasetDict

    test = rows["test"]
    return DatasetDict({"test": test.select(range(0, len(test), 4)[:samples])})


def make_requests(rows: Any, new_tokens: int, *, options: bool = True) -> list[Any]:
    """Return fresh `generate_until` instances, as lmms-eval builds them (stock code changes their settings)."""
    from lmms_eval.api.instance import Instance

    from vlm_backbones.prompts import vqa_prompt
    from vlm_backbones.tasks.common import doc_to_visual

    settings = {"max_new_tokens": new_tokens, "temperature": 0, "do_sample": False, "until": ["\n\n"]}
    settings |= {"score_options": "options"} if options else {}
    return [
        Instance(
            request_type="generate_until", idx=0,
            arguments=(vqa_prompt(question), dict(settings), doc_to_visual, index, "vqa_scene", "test"),
            metadata={"task": "vqa_scene", "doc_id": index, "repeats": 1},
        )
        for index, question in enumerate(rows["test"]["question"])
    ]  # fmt: skip


def _tokenizer(size: int) -> Any:
    """Return a tokenizer of so many tokens; beyond those that it learnt are words that only answers have."""
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from vlm_backbones.prompts import vqa_prompt

    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    text = [vqa_prompt(QUESTION.format(size="small", shape=shape, side="left")) for shape in ("circle", "star")]
    learnt.train_from_iterator([*text, "USER: ", f"ASSISTANT:\n{' '.join(OPTIONS)}"] * 8, trainer)
    content = json.loads(learnt.to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"\u0120w{number}": number for number in range(len(vocabulary), size)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip

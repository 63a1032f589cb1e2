"""Small random parts in the formats of the real ones, for tests: backbone, tower, datasets, study."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import datasets
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from vlm_backbones.prompts import coordinates_prompt, description_prompt, description_sentence, vqa_prompt

TEMPLATE = (
    "{{- bos_token -}}{%- for message in messages -%}{%- if message['role'] == 'user' -%}{{- 'Q: ' -}}"
    "{%- for part in message['content'] -%}{{- '<image>\n' if part['type'] == 'image' else part['text'] -}}"
    "{%- endfor -%}{{- '\nA:' -}}{%- else -%}{%- generation -%}{{- ' ' -}}"
    "{%- for part in message['content'] -%}{{- part['text'] -}}{%- endfor -%}{{- eos_token -}}"
    "{%- endgeneration -%}{%- endif -%}{%- endfor -%}"
)
COLOURS, SHAPES = ["red", "green", "blue"], ["circle", "square", "star"]


def build_backbone(
    folder: Path, *, hidden: int = 32, layers: int = 2, kv_heads: int = 2, intermediate: int = 64, seed: int = 0,
    image_token: bool = True, template: str | None = TEMPLATE, tied: bool = True,
) -> Path:  # fmt: skip
    """Write a random Llama with a byte-level tokenizer trained on a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", *(["<image>"] if image_token else [])]
    sentences = [description_prompt(), coordinates_prompt(), vqa_prompt("How many red circles are there?")]
    sentences += [str(turn) for index in range(20) for turn in scene_turns(random.Random(index))]
    trainer = trainers.BpeTrainer(
        vocab_size=590,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=template
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.08,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def build_backbone_like(folder: Path, base: Path, kind: str, **config: Any) -> Path:
    """Write a random LLM of another `model_type`, with the tokenizer of a backbone that `build_backbone` wrote."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    common = {"vocab_size": len(tokenizer), "num_key_value_heads": 2, "max_position_embeddings": 256}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **common, **ids, **config}))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_tower(folder: Path, *, hidden: int = 32, layers: int = 3) -> Path:
    """Write a random CLIP tower of 112 pixels with patches of 28, and its image processor."""
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers, num_attention_heads=4,
        image_size=112, patch_size=28, projection_dim=hidden,
    )  # fmt: skip
    CLIPVisionModel(config).save_pretrained(folder)
    size = {"height": 112, "width": 112}
    CLIPImageProcessor(do_resize=False, do_center_crop=False, size=size, crop_size=size).save_pretrained(folder)
    return folder


def scene_turns(generator: random.Random) -> list[tuple[str, str]]:
    """Return six questions with answers, made up."""
    colour, shape = generator.choice(COLOURS), generator.choice(SHAPES)
    return [
        (f"How many {colour} {shape}s are there?", str(generator.randint(0, 5))),
        (f"What colour is the {shape}?", colour),
        (f"Is there a {colour} {shape}?", generator.choice(["yes", "no"])),
        (f"What shape is the {colour} object?", shape),
        (f"Is the {colour} {shape} left of the star?", generator.choice(["yes", "no"])),
        (f"Are there more {shape}s than squares?", generator.choice(["yes", "no"])),
    ]


def png(generator: random.Random) -> bytes:
    """Return a picture of four flat quarters."""
    picture = Image.new("RGB", (112, 112))
    for x in (0, 56):
        for y in (0, 56):
            picture.paste(tuple(generator.randrange(256) for _ in range(3)), (x, y, x + 56, y + 56))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def build_datasets(folder: Path, *, scenes: int = 8, maps: int = 6, splits: tuple[str, ...] = ("train",)) -> Path:
    """Write the three task datasets with the documented columns."""
    features = {"image": datasets.Image()}
    for split in splits:
        rows: dict[str, list[dict[str, Any]]] = {"vqa_scene": [], "seismic_description": [], "seismic_coords": []}
        for number in range(scenes):
            generator = random.Random(f"{split}{number}")
            rows["vqa_scene"] += _scene_rows(f"scene-{split}-{number}", generator)
        for number in range(maps):
            description, coordinates = _map_rows(f"map-{split}-{number}", random.Random(f"{split}-map-{number}"))
            rows["seismic_description"].append(description)
            rows["seismic_coords"].append(coordinates)
        for task, content in rows.items():
            table = datasets.Dataset.from_list(content)
            table.cast_column("image", features["image"]).save_to_disk(str(folder / task / split))
    return folder


def _scene_rows(key: str, generator: random.Random) -> list[dict[str, Any]]:
    image = {"bytes": png(generator), "path": None}
    turns = scene_turns(generator)
    targets = json.dumps({"caption": " ".join(f"{question} {answer}." for question, answer in turns[:2])})
    return [
        {
            "image": image, "question": question, "paraphrase": question, "answers": [answer], "options": [],
            "question_type": "any", "image_id": key, "question_id": f"{key}-{index}", "targets": targets,
        }
        for index, (question, answer) in enumerate(turns)
    ]  # fmt: skip


def _map_rows(key: str, generator: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    facts = {
        "magnitude": round(generator.uniform(5.5, 8), 1), "depth_km": generator.randint(5, 200),
        "region": generator.choice(["Japan", "Peru", "Greece"]), "quadrant": generator.choice(["northwest", "south"]),
        "max_intensity": generator.choice(["V", "VI", "VII"]),
    }  # fmt: skip
    common = {"image": {"bytes": png(generator), "path": None}, "event_id": key, "image_id": key}
    targets = json.dumps(facts)
    place = {"latitude": generator.uniform(-40, 40), "longitude": generator.uniform(-170, 170), "frame": "Japan"}
    return (
        {**common, "description": description_sentence(**facts), **facts, "targets": targets},  # type: ignore[arg-type]
        {**common, **place, "targets": targets},
    )


def study_text(folder: Path, *, steps: int = 6, **changes: Any) -> dict[str, Any]:
    """Return a study of tiny parts under `folder`, as a mapping."""
    stage = {"steps": steps, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 1, "min_lr_ratio": 0.1,
             "max_length_tokens": 200}  # fmt: skip
    return {
        "name": "tiny",
        "backbones": [str(folder / "backbone")],
        "vision_tower": str(folder / "tower"),
        "recipe": {"align": {**stage, "trainable": ["projector"]}, "finetune": stage},
        "chat_format": "native",
        "data": {"finetune": [str(folder / "data")], "eval": str(folder / "data")},
        "tasks": ["vqa_scene"],
        **changes,
    }

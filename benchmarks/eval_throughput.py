"""Samples a second of `backbone_vlm` (batch 16) against stock `llava_hf`, same checkpoint, cores, questions.

    python benchmarks/eval_throughput.py [--checkpoint DIR] [--samples 192] [--repeats 3] [--threads 2]

Both models answer the same `vqa_scene` requests through `generate_until`, as lmms-eval calls them; ours scores the
options too. Runs alternate; the medians are compared. Ours is also checked: batch 16 against batch 1, token for token.
With a checkpoint the questions are the task's own; without one, random weights (hidden 128, 4 layers, 17 image tokens)
answer made-up ones. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

QUESTION = "What colour is the {size} {shape} at the {side}?"
IMAGE_SIDE_PX, PATCH_PX = 112, 28
STRING_TO_PARTS = """\
{%- set ns = namespace(parts=[]) -%}{%- for m in messages -%}{%- set ns.parts = ns.parts + [{'role': m['role'], \
'content': [{'type': 'image'}, {'type': 'text', 'text': m['content'].split('<image>')[-1].lstrip()}]}] -%}\
{%- endfor -%}{%- set messages = ns.parts -%}"""


def main() -> int:
    """Measure and print; exit 1 where batch 16 and batch 1 disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder of a checkpoint; default: random weights")
    parser.add_argument("--samples", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--new-tokens", type=int, default=8)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint or str(make_checkpoint(Path(folder)))
        rows = task_rows(arguments.samples) if arguments.checkpoint else make_rows(arguments.samples)
        ours, single = load_ours(checkpoint, rows, 16), load_ours(checkpoint, rows, 1)
        peer = load_peer(checkpoint, rows)
        identical = check_identical(ours, single, rows, arguments.new_tokens)
        seconds: dict[str, list[float]] = {"ours": [], "peer": []}
        for repeat in range(arguments.repeats):
            for name, model in (("ours", ours), ("peer", peer)):
                seconds[name].append(time_answers(model, rows, arguments.new_tokens))
                print(f"repeat {repeat + 1}: {name} {len(rows['test']) / seconds[name][-1]:.1f} samples/s", flush=True)
    rates = {name: len(rows["test"]) / statistics.median(values) for name, values in seconds.items()}
    print(json.dumps({
        "name": "eval_throughput", "ours": round(rates["ours"], 1), "peer": round(rates["peer"], 1),
        "ratio": round(rates["ours"] / rates["peer"], 2), "unit": "samples/s", "repeats": arguments.repeats,
        "identical_to_batch_1": identical,
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": arguments.threads,
                    "torch": torch.__version__, "python": platform.python_version()},
    }))  # fmt: skip
    return 0 if identical else 1


def make_checkpoint(folder: Path) -> Path:
    """Write a LLaVA of random weights: hidden 128, 4 layers, 17 image tokens, a tokenizer of 512 tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    from vlm_backbones.prompts import vqa_prompt

    torch.manual_seed(0)
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    text = [vqa_prompt(row["question"]) for row in make_rows(256)["test"].remove_columns("image")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator([*text, "USER: ", "ASSISTANT: red green blue black"] * 8, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, projection_dim=128,
            image_size=IMAGE_SIDE_PX, patch_size=PATCH_PX,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=4,
            num_attention_heads=4, max_position_embeddings=1024, initializer_range=0.1,
            bos_token_id=1, eos_token_id=2, pad_token_id=0,
        ),
        image_token_index=3, vision_feature_layer=-2, vision_feature_select_strategy="full", image_seq_length=17,
    )  # fmt: skip
    size = {"height": IMAGE_SIDE_PX, "width": IMAGE_SIDE_PX}
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}USER: {% for c in m['content'] %}"
        "{{ '<image>\n' if c['type'] == 'image' else c['text'] }}{% endfor %} {% else %}ASSISTANT: "
        "{{ m['content'][0]['text'] }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size=size, crop_size=size), tokenizer=tokenizer, patch_size=PATCH_PX,
        vision_feature_select_strategy="full", num_additional_image_tokens=1, chat_template=template,
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def task_rows(samples: int) -> Any:
    """Return a DatasetDict of the first questions of `vqa_scene`'s test split; every four share a picture."""
    from datasets import DatasetDict, load_from_disk

    from vlm_backbones.tasks.data import dataset_dir

    test = load_from_disk(str(dataset_dir("vqa_scene")))["test"]
    return DatasetDict({"test": test.select(range(min(samples, len(test))))})


def make_rows(samples: int) -> Any:
    """Return a DatasetDict of questions; every four share a picture, as in `vqa_scene`."""
    import numpy as np
    from datasets import Dataset, DatasetDict, Features, Image, List, Value
    from PIL import Image as PILImage

    random = np.random.default_rng(0)
    side = (IMAGE_SIDE_PX, IMAGE_SIDE_PX)
    pictures = [
        PILImage.fromarray(random.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize(side)
        for _ in range((samples + 3) // 4)
    ]
    words = [("small", "large"), ("circle", "square", "star"), ("left", "right", "top", "bottom")]
    rows = []
    for index in range(samples):
        size, shape, place = (choices[int(random.integers(len(choices)))] for choices in words)
        question = QUESTION.format(size=size, shape=shape, side=place)
        rows.append({"image": pictures[index // 4], "question": question, "options": ["red", "green", "blue", "black"]})
    features = Features({"image": Image(), "question": Value("string"), "options": List(Value("string"))})
    return DatasetDict({"test": Dataset.from_list(rows, features=features)})


def make_requests(rows: Any, new_tokens: int) -> list[Any]:
    """Return fresh `generate_until` instances, as lmms-eval builds them (stock code changes their settings)."""
    from lmms_eval.api.instance import Instance

    from vlm_backbones.prompts import vqa_prompt
    from vlm_backbones.tasks.common import doc_to_visual

    settings = {"max_new_tokens": new_tokens, "temperature": 0, "do_sample": False, "until": ["\n\n"]}
    questions = rows["test"]["question"]
    return [
        Instance(
            request_type="generate_until", idx=0,
            arguments=(vqa_prompt(question), {**settings, "score_options": "options"}, doc_to_visual, index,
                       "vqa_scene", "test"),
            metadata={"task": "vqa_scene", "doc_id": index, "repeats": 1},
        )
        for index, question in enumerate(questions)
    ]  # fmt: skip


def load_ours(checkpoint: str, rows: Any, batch_size: int) -> Any:
    """Return our model on the CPU."""
    from vlm_backbones.model_wrappers.backbone_vlm import BackboneVLM

    model = BackboneVLM(pretrained=checkpoint, batch_size=batch_size, device="cpu")
    model.task_dict = {"vqa_scene": rows}
    return model


def load_peer(checkpoint: str, rows: Any) -> Any:
    """Return stock `llava_hf`, which takes batches of one only."""
    try:
        import decord  # noqa: F401
    except ImportError:  # stock code imports the video reader whatever the task; no video is read here
        stub: Any = types.ModuleType("decord")
        stub.VideoReader = stub.cpu = None
        sys.modules["decord"] = stub
    from lmms_eval.models.simple.llava_hf import LlavaHf

    model = LlavaHf(pretrained=checkpoint, device="cpu", device_map="cpu", batch_size=1, dtype="float32")
    # Stock code hands the template one string; ours are written for parts. Without this it would answer another prompt.
    model.chat_template = STRING_TO_PARTS + (model.tokenizer.chat_template or model._image_processor.chat_template)
    model.task_dict = {"vqa_scene": rows}
    return model


def time_answers(model: Any, rows: Any, new_tokens: int) -> float:
    """Return the seconds that one model takes for all answers."""
    requests = make_requests(rows, new_tokens)
    start = time.perf_counter()
    answers = model.generate_until(requests)
    seconds = time.perf_counter() - start
    texts = [answer if isinstance(answer, str) else answer[0] for answer in answers]
    # Stock code turns an exception into an empty answer, which would look fast.
    if not any(texts):
        raise SystemExit(f"{type(model).__name__} answered nothing: no comparison.")
    return seconds


def check_identical(batched: Any, single: Any, rows: Any, new_tokens: int) -> bool:
    """Return whether batch 16 and batch 1 give the same texts, token counts, and log-probabilities within 1e-4."""
    pairs = zip(
        batched.generate_until(make_requests(rows, new_tokens)),
        single.generate_until(make_requests(rows, new_tokens)),
        strict=True,
    )
    different = 0
    for (text_a, counts_a), (text_b, counts_b) in pairs:
        a, b = counts_a["reasoning_tokens"], counts_b["reasoning_tokens"]
        close = abs(a["logprob"] - b["logprob"]) < 1e-4
        different += not (text_a == text_b and a["token_count"] == b["token_count"] and close)
    print(f"batch 16 against batch 1: {different} of {len(rows['test'])} answers differ", flush=True)
    return different == 0


if __name__ == "__main__":
    sys.exit(main())

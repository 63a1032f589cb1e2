"""Two tiny backbones that differ in their tokenizer, a tiny tower, tiny datasets, and a study of them."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[Q] {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %} [A]\\n"
    "{% else %}{% generation %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{{ eos_token }}"
    "{% endgeneration %}{% endif %}{% endfor %}"
)
TEXT = 'What colour is it? Answer briefly. red blue {"lat": 36.1, "lon": 142.9} A magnitude 6.1 earthquake.'
STAGE: dict[str, Any] = {"batch_size": 4, "learning_rate": 1e-3, "max_length_tokens": 200}
STUDY: dict[str, Any] = {
    "name": "tiny",
    "backbones": ["./tiny-1", "./tiny-2"],
    "vision_tower": "./eye",
    "recipe": {
        "align": STAGE | {"steps": 3, "trainable": ["projector"]},
        "finetune": STAGE | {"steps": 5},
    },
    "chat_format": "native",
    "data": {"finetune": ["./data"], "eval": "./data"},
    "tasks": ["vqa_scene", "seismic_coords"],
    "evaluation": {"limit": 6, "batch_size": 4},
    "analysis": {"states": True, "layers": "all", "conditions": ["swap", "noise05"], "subset": 4, "bootstrap": 200},
}


def write_backbone(folder: Path, *, single_digits: bool) -> None:
    special = ["<pad>", "<s>", "</s>", "<image>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=single_digits), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT] * 20, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=TEMPLATE
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).half().save_pretrained(folder)


def picture(seed: int) -> dict[str, Any]:
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((112, 112), Image.Resampling.NEAREST).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def scene_rows(split: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "image": picture(hash_of(split) + index // 2),
            "question": f"What colour is it {index % 2}?",
            "paraphrase": "Which colour?",
            "answers": [("red", "blue")[index % 2]],
            "options": ["red", "blue"],
            "question_type": "colour",
            "image_id": f"{split}-s{index // 2}",
            "question_id": f"{split}-q{index}",
            "targets": json.dumps({"caption": "A red square."}),
        }
        for index in range(count)
    ]


def event_rows(split: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "image": picture(hash_of(split) + 500 + index),
            "event_id": f"{split}-e{index}",
            "description": f"A magnitude 6.{index % 10} earthquake.",
            "magnitude": 6.0 + index % 10 / 10,
            "depth_km": 20.0,
            "region": "Japan",
            "quadrant": "northeast",
            "max_intensity": "VI",
            "latitude": 30.0 + index / 10,
            "longitude": 140.0,
            "frame": "Japan",
            "image_id": f"{split}-m{index}",
            "targets": json.dumps({"magnitude": 6.0, "region": "Japan"}),
        }
        for index in range(count)
    ]


def hash_of(split: str) -> int:
    return {"train": 0, "validation": 10_000, "test": 20_000}[split]


SEISMIC = {
    "seismic_description": "event_id description magnitude depth_km region quadrant max_intensity image_id targets",
    "seismic_coords": "event_id latitude longitude frame image_id targets",
}


def feature(name: str, value: Any) -> Any:
    if name == "image":
        return datasets.Image()
    if isinstance(value, list):
        return datasets.List(datasets.Value("string"))
    return datasets.Value("float64" if isinstance(value, float) else "string")


def write_split(folder: Path, rows: list[dict[str, Any]]) -> None:
    features = datasets.Features({name: feature(name, value) for name, value in rows[0].items()})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(folder)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all workers of this session."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Make a folder unless another worker did; wait while it does."""
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def tiny_study(shared: Path) -> Path:
    """The study's YAML file, its parts and data beside it; read only."""
    return made_once(shared / "tiny-study", write_study) / "tiny.yaml"


def write_study(folder: Path) -> None:
    write_backbone(folder / "tiny-1", single_digits=True)
    write_backbone(folder / "tiny-2", single_digits=False)
    tower = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=112, patch_size=28
    )
    CLIPVisionModel(tower).half().save_pretrained(folder / "eye")
    for split, count in (("train", 32), ("validation", 8), ("test", 12)):
        write_split(folder / "data" / "vqa_scene" / split, scene_rows(split, count))
        events = event_rows(split, count)
        for task, names in SEISMIC.items():
            kept = ["image", *names.split()]
            write_split(folder / "data" / task / split, [{name: row[name] for name in kept} for row in events])
    (folder / "tiny.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")


@dataclass(frozen=True)
class StudyRuns:
    """Runs the tiny study as a user does; `finished` is the folder of an undisturbed run."""

    study: Path
    cache: Path
    finished: Path
    seconds: float = 0.0
    """How long the undisturbed run took."""

    def command(self, out: Path, *more: str) -> list[str]:
        return [sys.executable, "-m", "vlm_backbones.cli", "study", "run", str(self.study), "--out", str(out), *more]

    def environment(self, **changes: str) -> dict[str, str]:
        return {**os.environ, "VLM_BACKBONES_CACHE": str(self.cache), "CUDA_VISIBLE_DEVICES": "", **changes}

    def run(self, out: Path, *more: str, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = self.environment(VLM_BACKBONES_CACHE=str(cache or self.cache))
        return subprocess.run(self.command(out, *more), capture_output=True, text=True, env=environment, check=False)

    @staticmethod
    def tables(out: Path) -> dict[str, str]:
        return {path.name: path.read_text(encoding="utf-8") for path in sorted((out / "tables").glob("*.csv"))}


@pytest.fixture(scope="session")
def runs(tiny_study: Path, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyRuns:
    """The tiny study with its undisturbed run; a copy, for one worker."""

    def run(folder: Path) -> None:
        before = StudyRuns(tiny_study, folder / "cache", folder / "finished")
        start = time.monotonic()
        done = before.run(before.finished)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == str(before.finished / "report.html")
        (folder / "seconds").write_text(str(time.monotonic() - start), encoding="utf-8")

    made = made_once(shared / "runs", run)
    own = Path(shutil.copytree(made, tmp_path_factory.mktemp("runs") / "copy"))
    return StudyRuns(tiny_study, own / "cache", own / "finished", float((own / "seconds").read_text(encoding="utf-8")))


@pytest.fixture
def finished(runs: StudyRuns) -> Path:
    """The output folder of a study that ran through; read only but for what a repeated run would write."""
    return runs.finished


@pytest.fixture
def cache(runs: StudyRuns) -> Path:
    return runs.cache

"""A VipLlava checkpoint is answered like a Llava: same answers as plain transformers, whatever the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from lmms_eval.api.instance import Instance
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlm_backbones.model_wrappers.backbone_vlm import BackboneVLM
from vlm_backbones.tasks.common import doc_to_visual
from vlm_backbones.tasks.vqa_scene.utils import doc_to_text
from vlm_backbones.vlm import compose, save


@pytest.fixture(scope="module")
def vip_checkpoint(tiny_parts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vip")
    tower = tiny_parts.build_tower(folder / "tower", hidden=16, layers=12)
    row = {"feature_layer": [-2, -5, -8, -11, 6], "select_strategy": "default", "pad_to_square": True}
    (tower / "vision_tower.yaml").write_text(yaml.safe_dump(row))
    save(*compose(tiny_parts.build_backbone(folder / "backbone"), tower), folder / "vlm")
    return folder / "vlm"


def ask(checkpoint: Path, rows: Any, batch_size: int) -> tuple[BackboneVLM, list[Any]]:
    model = BackboneVLM(pretrained=str(checkpoint), batch_size=batch_size, device="cpu")
    model.task_dict = {"vqa_scene": {"test": rows}}
    settings = {"max_new_tokens": 6, "score_options": "options"}
    requests = [
        Instance(
            request_type="generate_until",
            arguments=(doc_to_text(row), dict(settings), doc_to_visual, index, "vqa_scene", "test"),
            idx=0,
            metadata={"task": "vqa_scene", "doc_id": index, "repeats": 1},
        )
        for index, row in enumerate(rows)
    ]
    return model, model.generate_until(requests)


def test_answers_equal_plain_transformers_in_any_batch(vip_checkpoint: Path, scene_rows: Any) -> None:
    rows = scene_rows.select(range(8))
    model, batched = ask(vip_checkpoint, rows, 8)
    _, single = ask(vip_checkpoint, rows, 1)
    plain = AutoModelForImageTextToText.from_pretrained(vip_checkpoint).eval()
    processor = AutoProcessor.from_pretrained(vip_checkpoint, backend="pil")
    assert type(model.engine.model) is type(plain)  # type: ignore[union-attr]
    for row, (text, counts), (alone, alone_counts) in zip(rows, batched, single, strict=True):
        content = [{"type": "image"}, {"type": "text", "text": doc_to_text(row)}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        inputs = processor(images=row["image"], text=prompt, add_special_tokens=False, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            ids = plain.generate(**inputs, max_new_tokens=6, do_sample=False)[0, length:]
        assert text == alone == processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert counts["input_tokens"] == length
        extras, others = counts["reasoning_tokens"], alone_counts["reasoning_tokens"]
        assert extras["logprob"] == pytest.approx(others["logprob"], abs=1e-4)
        assert (extras["option_logprobs"] or {}) == pytest.approx(others["option_logprobs"] or {}, abs=1e-4)


def test_an_image_is_encoded_once(
    vip_checkpoint: Path, scene_rows: Any, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]
) -> None:
    from vlm_backbones.model_wrappers._vision import ImageEncoder

    threads(1)  # a forked process would count for itself
    computed: list[int] = []
    compute = ImageEncoder._compute
    monkeypatch.setattr(
        ImageEncoder, "_compute", lambda self, images: computed.append(len(images)) or compute(self, images)
    )
    ask(vip_checkpoint, scene_rows, 4)
    assert sum(computed) == len(scene_rows) // 2  # every two questions share a picture

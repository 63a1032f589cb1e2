"""Where memory runs out, half the requests go on, and the answers are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vlm_backbones.errors import ConfigError
from vlm_backbones.model_wrappers._engine import Engine
from vlm_backbones.model_wrappers._vision import ImageEncoder
from vlm_backbones.tasks.common import doc_to_visual
from vlm_backbones.tasks.vqa_scene.utils import doc_to_text

SETTINGS = {"max_new_tokens": 10, "score_options": "options"}

UNDER_A_LIMIT = """
import json, re, resource, sys
import torch
from transformers import AutoTokenizer
from datasets import load_from_disk
torch.set_num_threads(1)
from lmms_eval.api.instance import Instance
from vlm_backbones.model_wrappers.backbone_vlm import BackboneVLM
from vlm_backbones.tasks.common import doc_to_visual
rows = load_from_disk(sys.argv[2])["test"]
model = BackboneVLM(pretrained=sys.argv[1], batch_size=1, device="cpu")
model.task_dict = {"vqa_scene": {"test": rows}}
def request(number):
    arguments = ("Again, " * 50 + str(number), {"max_new_tokens": 3}, doc_to_visual, 0, "vqa_scene", "test")
    metadata = {"task": "vqa_scene", "doc_id": 0, "repeats": 1}
    return Instance(request_type="generate_until", idx=0, metadata=metadata, arguments=arguments)
requests = [request(number) for number in range(64)]
alone = [text for text, _ in model.generate_until(requests)]
model.room.asked, model.room.pass_positions = 16, 10**9
model.generate_until(requests)  # what sixteen at once take is allowed, and a thread's stack
peak_kb = int(re.search(r"VmPeak:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
resource.setrlimit(resource.RLIMIT_AS, (peak_kb * 2**10 + 24 * 2**20,) * 2)
model.room.asked = 64
texts = [text for text, _ in model.generate_until(requests)]
print(json.dumps({"same": texts == alone, "rows": model.batch_sizes["rows"]}))
"""


def answers(model: Any, rows: Any, ask: Any) -> list[tuple[str, float]]:
    requests = [ask(doc_to_text(row), dict(SETTINGS), doc_to_visual, index) for index, row in enumerate(rows)]
    return [(text, counts["reasoning_tokens"]["logprob"]) for text, counts in model.generate_until(requests)]


class Narrow:
    """A backbone's pass that takes so many rows: what a small GPU does."""

    def __init__(self, engine: Engine, rows: int, error: Exception, *, from_new: int = 0) -> None:
        self.inner, self.rows, self.error, self.from_new = engine.backbone, rows, error, from_new

    def __call__(self, embeddings: torch.Tensor, *given: Any) -> torch.Tensor:
        if len(embeddings) > self.rows and embeddings.shape[1] >= self.from_new:
            raise self.error
        return self.inner(embeddings, *given)


@pytest.mark.parametrize("from_new", [2, 1])
def test_half_the_rows_go_on_and_are_remembered(
    checkpoint: Path, scene_rows: Any, ask: Any, build: Any, capsys: pytest.CaptureFixture[str], from_new: int
) -> None:
    expected = answers(build(checkpoint, scene_rows, 1), scene_rows, ask)
    model = build(checkpoint, scene_rows, 16)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    narrow = Narrow(model.engine, 5, error, from_new=from_new)
    object.__setattr__(model.engine, "backbone", narrow)
    found = answers(model, scene_rows, ask)
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-4)
    assert model.batch_sizes["rows"] <= 5
    said = capsys.readouterr().out
    assert "out of memory with 16 requests at once; goes on with 8." in said
    answers(model, scene_rows, ask)
    assert "out of memory" not in capsys.readouterr().out  # remembered


def test_running_out_while_answers_are_written_begins_them_again(
    checkpoint: Path, scene_rows: Any, ask: Any, build: Any
) -> None:
    expected = answers(build(checkpoint, scene_rows, 1), scene_rows, ask)
    model = build(checkpoint, scene_rows, 16)
    inner, steps = model.engine.backbone, []

    def pass_(embeddings: torch.Tensor, *given: Any) -> torch.Tensor:
        hidden = inner(embeddings, *given)
        if embeddings.shape[1] == 1:
            steps.append(len(embeddings))
            if len(steps) in (3, 4):  # the cache has grown by then
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")
        return hidden

    object.__setattr__(model.engine, "backbone", pass_)
    found = answers(model, scene_rows, ask)
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert len(steps) > 4


@pytest.mark.parametrize("count", [1, 2])
def test_the_vision_tower_takes_half_the_pictures_and_that_is_remembered(
    checkpoint: Path, scene_rows: Any, ask: Any, build: Any, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None], count: int,
) -> None:  # fmt: skip
    rows = scene_rows.select(range(0, 24, 2))  # a picture each
    threads(1)
    expected = answers(build(checkpoint, rows, 1), rows, ask)
    threads(count)
    compute = ImageEncoder._compute

    def narrow(encoder: ImageEncoder, images: list[Any]) -> Any:
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return compute(encoder, images)

    monkeypatch.setattr(ImageEncoder, "_compute", narrow)
    model = build(checkpoint, rows, 2)  # so few requests fit; what is looked ahead for is more
    found = answers(model, rows, ask)
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert (model.batch_sizes["rows"], model.room.images) == (2, 1)
    assert "out of memory with" in capfd.readouterr().out
    answers(model, rows, ask)
    assert "out of memory" not in capfd.readouterr().out


def test_a_picture_that_fits_with_fewer_requests_is_read_then(
    checkpoint: Path, scene_rows: Any, ask: Any, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(checkpoint, scene_rows, 4)
    compute = ImageEncoder._compute

    def narrow(encoder: ImageEncoder, images: list[Any]) -> Any:
        if model.room.rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return compute(encoder, images)

    monkeypatch.setattr(ImageEncoder, "_compute", narrow)
    answers(model, scene_rows.select(range(6)), ask)
    assert (model.room.rows, model.room.images) == (2, 1)


def test_features_are_kept_for_later_questions_within_their_share_of_the_memory(
    checkpoint: Path, scene_rows: Any, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, computed = build(checkpoint, scene_rows, 4).engine, list[int]()
    compute = ImageEncoder._compute
    monkeypatch.setattr(
        ImageEncoder, "_compute", lambda self, images: computed.append(len(images)) or compute(self, images)
    )
    pictures = {str(row): scene_rows[row]["image"] for row in range(0, 6, 2)}
    one = next(iter(ImageEncoder(engine).encode({"0": pictures["0"]}).values())).nbytes
    for kept, sharers, wanted in ((3, 1, [3]), (6, 2, [3]), (2, 1, [3, 1, 1, 1]), (0, 1, [3, 1, 1, 1])):
        computed.clear()
        engine.room.feature_bytes, engine.room.sharers = kept * one, sharers
        encoder = ImageEncoder(engine)
        encoder.encode(pictures)  # the first is the oldest
        for key, picture in pictures.items():
            encoder.encode({key: picture})
        assert computed == wanted


def test_one_request_that_does_not_fit_is_refused(checkpoint: Path, scene_rows: Any, ask: Any, build: Any) -> None:
    model = build(checkpoint, scene_rows, 4)
    object.__setattr__(model.engine, "backbone", Narrow(model.engine, 0, MemoryError()))
    with pytest.raises(ConfigError, match=r"one request alone does not fit into memory .*dtype"):
        answers(model, scene_rows, ask)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="address space is limited on Linux")
@pytest.mark.usefixtures("environment")
def test_a_real_limit_of_memory_is_survived(checkpoint: Path, data: Path) -> None:
    command = [sys.executable, "-c", UNDER_A_LIMIT, str(checkpoint), str(data / "vqa_scene")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"]
    assert found["rows"] in (1, 2, 4, 8, 16, 32)  # fewer than were asked for

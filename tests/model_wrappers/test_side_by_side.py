"""Several answerers side by side: the same answers, dealt the same way each time, and no error is lost."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vlm_backbones.errors import DataError
from vlm_backbones.model_wrappers._forked import merged
from vlm_backbones.model_wrappers._requests import Job
from vlm_backbones.model_wrappers._side_by_side import _deal
from vlm_backbones.tasks.common import doc_to_visual
from vlm_backbones.tasks.vqa_scene.utils import doc_to_text

AFTER_A_PARALLEL_PRODUCT = """
import sys
import torch
from datasets import load_from_disk
from lmms_eval.api.instance import Instance
from vlm_backbones.model_wrappers.backbone_vlm import BackboneVLM
from vlm_backbones.tasks.common import doc_to_visual
torch.set_num_threads(4)
table = torch.randn(1500, 1500)
torch.nn.functional.silu(table @ table)  # the parent's threads have worked
model = BackboneVLM(pretrained=sys.argv[1], batch_size="auto", device="cpu")
model.task_dict = {"vqa_scene": {"test": load_from_disk(sys.argv[2])["test"]}}
requests = [
    Instance(
        request_type="generate_until", idx=0, metadata={"task": "vqa_scene", "doc_id": row, "repeats": 1},
        arguments=("How many? " * 40, {"max_new_tokens": 4}, doc_to_visual, row, "vqa_scene", "test"),
    )
    for row in range(8)
]
print(len(model.generate_until(requests)), model.room.sharers)
"""


def endless() -> Iterator[list[int]]:
    while True:
        time.sleep(0.001)
        yield [0]


def test_every_item_is_dealt_once() -> None:
    windows: Any = [list(range(start, start + size)) for start, size in ((0, 5), (5, 1), (6, 8))]
    shares: Any = _deal(windows, 2)
    assert sorted(shares[0] + shares[1]) == list(range(14))
    assert abs(len(shares[0]) - len(shares[1])) <= 3
    assert _deal(windows[1:2], 3) == [[5]]


def answering() -> list[Any]:
    """The processes that answer; other tests have started and keep some of their own."""
    return [process for process in multiprocessing.active_children() if process.name == "answer"]


def test_streams_are_merged_and_the_first_error_ends_them() -> None:
    assert sorted(merged([iter([[0, 1], [2]]), iter([[3], [], [4, 5]])])) == list(range(6))

    def broken() -> Iterator[list[int]]:
        yield [1]
        raise DataError("row 3 is broken")

    with pytest.raises(DataError, match="row 3") as found:
        list(merged([endless(), broken()]))
    assert "in broken" in found.value.__notes__[0]
    assert answering() == []


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    class LocalError(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    def broken() -> Iterator[list[int]]:
        yield [1]
        raise LocalError(1, 2)

    with pytest.raises(RuntimeError, match="1 and 2"):
        list(merged([broken()]))


def test_a_killed_process_is_an_error() -> None:
    def killed() -> Iterator[list[int]]:
        yield [1]
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match=r"ended from outside \(SIGKILL\)"):
        list(merged([endless(), killed()]))
    assert answering() == []


def test_what_is_no_longer_wanted_ends() -> None:
    stream = merged([endless(), endless()])
    assert next(stream) == 0
    stream.close()  # type: ignore[attr-defined]
    assert answering() == []


def test_more_threads_give_the_same_answers_and_are_given_back(
    checkpoint: Path, scene_rows: Any, build: Any, ask: Any, threads: Callable[[int], None]
) -> None:
    settings = {"max_new_tokens": 12, "score_options": "options"}
    found = []
    for count in (1, 3):
        threads(count)
        model = build(checkpoint, scene_rows, 2)
        requests = [ask(doc_to_text(row), settings, doc_to_visual, place) for place, row in enumerate(scene_rows)]
        found.append(model.generate_until(requests))
        assert (model.room.sharers, torch.get_num_threads()) == (count, count)
    for (text, counts), (other, other_counts) in zip(*found, strict=True):
        one, two = counts["reasoning_tokens"], other_counts["reasoning_tokens"]
        assert (text, one["doc_key"]) == (other, two["doc_key"])
        assert one["logprob"] == pytest.approx(two["logprob"], abs=1e-4)
        assert one["option_logprobs"] == pytest.approx(two["option_logprobs"], abs=1e-4)


@pytest.mark.usefixtures("environment")
def test_fewer_processes_than_threads_answer_after_the_threads_have_worked(checkpoint: Path, data: Path) -> None:
    """A fork has none of its parent's threads and waits for ever where it uses more than one."""
    command = [sys.executable, "-c", AFTER_A_PARALLEL_PRODUCT, str(checkpoint), str(data / "vqa_scene")]
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["8", "2"]


@pytest.mark.parametrize("count", [1, 2])
def test_near_ties_are_counted_once_whoever_meets_them(
    checkpoint: Path, scene_rows: Any, build: Any, ask: Any, threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch, count: int,
) -> None:  # fmt: skip
    """With a margin that every token is within, the ties are the tokens written, again for each round of questions."""
    monkeypatch.setattr("vlm_backbones.model_wrappers._greedy.NEAR_TIE", math.inf)
    threads(count)
    model = build(checkpoint, scene_rows, 4)
    requests = [ask(doc_to_text(row), {"max_new_tokens": 5}, doc_to_visual, at) for at, row in enumerate(scene_rows)]
    jobs = [Job.from_arguments(index, request.args) for index, request in enumerate(requests)]
    answerers = model._answerer(jobs)
    for round_ in (1, 2):
        written = [record.token_count for _, record in answerers.answers(jobs)]
        assert answerers.near_ties == round_ * sum(written) > 0


def test_a_bad_row_is_named_by_whoever_meets_it(
    checkpoint: Path, scene_rows: Any, build: Any, ask: Any, threads: Callable[[int], None]
) -> None:
    threads(2)
    texts = ["?"] * 7 + ["An <image> in the <image> text"]
    requests = [ask(text, {}, doc_to_visual, row) for row, text in enumerate(texts)]
    with pytest.raises(DataError, match="row 7"):
        build(checkpoint, scene_rows, 2).generate_until(requests)
    assert torch.get_num_threads() == 2

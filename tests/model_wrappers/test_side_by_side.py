"""Several answerers side by side: the same answers, dealt the same way each time, and no error is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vlm_backbones.errors import DataError
from vlm_backbones.model_wrappers._side_by_side import _deal, _merged
from vlm_backbones.tasks.common import doc_to_visual
from vlm_backbones.tasks.vqa_scene.utils import doc_to_text


def test_every_item_is_dealt_once_and_always_to_the_same() -> None:
    windows = [list(range(start, start + size)) for start, size in ((0, 5), (5, 1), (6, 8))]
    first, second = (list(hand) for hand in _deal(iter(windows), 2))
    backwards = _deal(iter(windows), 2)
    assert [list(hand) for hand in reversed(backwards)] == [second, first]
    flat = [[item for part in hand for item in part] for hand in (first, second)]
    assert sorted(flat[0] + flat[1]) == list(range(14))
    assert abs(len(flat[0]) - len(flat[1])) <= 3


def test_streams_are_merged_and_the_first_error_ends_them() -> None:
    assert sorted(_merged([iter(range(5)), iter(range(5, 9))])) == list(range(9))
    going_on = threading.Event()

    def endless() -> Iterator[int]:
        while True:
            going_on.wait(0.001)
            yield 0

    def broken() -> Iterator[int]:
        yield 1
        raise DataError("row 3 is broken")

    with pytest.raises(DataError, match="row 3"):
        list(_merged([endless(), broken()]))
    assert not [thread for thread in threading.enumerate() if thread.name == "answer"]


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


def test_a_bad_row_is_named_by_whoever_meets_it(
    checkpoint: Path, scene_rows: Any, build: Any, ask: Any, threads: Callable[[int], None]
) -> None:
    threads(2)
    texts = ["?"] * 7 + ["An <image> in the <image> text"]
    requests = [ask(text, {}, doc_to_visual, row) for row, text in enumerate(texts)]
    with pytest.raises(DataError, match="row 7"):
        build(checkpoint, scene_rows, 4).generate_until(requests)
    assert torch.get_num_threads() == 2

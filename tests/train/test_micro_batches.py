"""Micro-batches come in order and in full from the thread that prepares them, and waiting for them is measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vlm_backbones.data.packing import PackedExample
from vlm_backbones.errors import DataError
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.train import dataset
from vlm_backbones.train.dataset import MicroBatches, StageData

RECIPE = StageRecipe(steps=3, batch_size=4, micro_batch_size=1, learning_rate=1e-3)
EXAMPLES = 12


class Pictures:
    """Features whose states are their handle; `on_gather` runs before each is read."""

    def __init__(self, on_gather: Callable[[int], None] = lambda handle: None) -> None:
        self.on_gather, self.threads = on_gather, set[int]()

    def gather(self, handles: Sequence[int]) -> torch.Tensor:
        self.threads.add(threading.get_ident())
        for handle in handles:
            self.on_gather(handle)
        return torch.tensor(handles).float()[:, None]


def build(pictures: Pictures, *, world_size: int = 1) -> MicroBatches:
    ids = np.arange(5)
    packed = {
        number: PackedExample(ids + number, ids, (3, 2), ids[2:4], ids[3:5] + number, np.full(2, 2), True, ())
        for number in range(EXAMPLES)
    }
    order = [[8, 3, 1, 0], [5, 11, 2, 9], [4, 6, 7, 10]]
    data = StageData(packed, {number: number for number in packed}, order, {})
    features: Any = pictures
    return MicroBatches(data, features, RECIPE, world_size=world_size)


@pytest.mark.parametrize("first", [0, 5], ids=["from the start", "resumed"])
@pytest.mark.parametrize(("world_size", "rank"), [(1, 0), (2, 0), (2, 1)])
def test_micro_batches_are_the_same_in_the_same_order_from_the_thread(first: int, world_size: int, rank: int) -> None:
    pictures = Pictures()
    batches = build(pictures, world_size=world_size)
    asked = range(first + rank, len(batches), world_size)
    found = [batches[number] for number in asked]
    assert threading.get_ident() not in pictures.threads
    assert len(pictures.threads) == 1
    order = [index for step in [[8, 3, 1, 0], [5, 11, 2, 9], [4, 6, 7, 10]] for index in step]
    assert [batch["examples"] for batch in found] == [[order[number]] for number in asked]
    for batch in found:
        (index,) = batch["examples"]
        assert batch["pixel_values"].tolist() == [[index]]
        assert batch["input_ids"].tolist() == [[index, index + 1, index + 2, index + 3, index + 4]]


def test_a_step_is_prepared_while_the_one_before_runs_and_no_more() -> None:
    read: list[int] = []
    enough = threading.Event()

    def note(handle: int) -> None:
        read.append(handle)
        if len(read) == 5:
            enough.set()

    batches = build(Pictures(note))
    batches[0]
    assert enough.wait(10)  # nobody asked for more than the first
    time.sleep(0.05)
    assert read == [8, 3, 1, 0, 5]  # a step of four parts ahead


def test_what_fails_is_raised_where_its_micro_batch_is_asked_for() -> None:
    def refuse(handle: int) -> None:
        if handle == 1:
            raise DataError("rows.json row 1: the picture is damaged")

    batches = build(Pictures(refuse))
    assert [batches[number]["examples"] for number in (0, 1)] == [[8], [3]]
    with pytest.raises(DataError, match=r"rows\.json row 1"):
        batches[2]
    assert batches[3]["examples"] == [0]


def test_only_waiting_counts_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves by a second where a picture is read, so no other work is counted."""
    seconds = [0.0]

    def read(handle: int) -> None:
        seconds[0] += 1

    batches = build(Pictures(read))
    monkeypatch.setattr(dataset, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    batches[8]
    assert 1 <= batches.waited_seconds <= 4  # of the last four, which the thread goes on with
    before = batches.waited_seconds
    while not all(future.done() for future in batches._ahead.values()):
        time.sleep(0.01)  # the step's own work
    assert seconds == [4.0]
    batches[9]
    assert batches.waited_seconds == before

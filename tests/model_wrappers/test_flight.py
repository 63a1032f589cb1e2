"""Long answers: prompts join while others are being written, and nothing in the answers shows it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from vlm_backbones.model_wrappers import _room
from vlm_backbones.model_wrappers._cache import build_cache, join_caches
from vlm_backbones.model_wrappers._flight import Flight
from vlm_backbones.model_wrappers.backbone_vlm import BackboneVLM
from vlm_backbones.tasks.common import doc_to_visual
from vlm_backbones.tasks.vqa_scene.utils import doc_to_text


def responses(model: BackboneVLM, rows: Any, ask: Any, limits: Sequence[int]) -> list[Any]:
    """Return the answers of rows that may be of different lengths."""
    requests = [
        ask(doc_to_text(row), {"max_new_tokens": limit}, doc_to_visual, index)
        for index, (row, limit) in enumerate(zip(rows, limits, strict=True))
    ]
    return model.generate_until(requests)


@pytest.mark.parametrize("own_pass", [False, True])
def test_rows_join_as_others_end_and_answers_stay_those_of_batch_1(
    checkpoint: Path, scene_rows: Any, ask: Any, build: Any, monkeypatch: pytest.MonkeyPatch,
    threads: Callable[[int], None], own_pass: bool,
) -> None:  # fmt: skip
    threads(1)
    if own_pass:  # transformers' own forward, which large backbones run
        monkeypatch.setattr("vlm_backbones.model_wrappers._backbone.LEAN_PARAMETERS", 0)
    scene_rows = scene_rows.select(range(14))
    limits = [40 if index % 5 == 0 else 4 + index for index in range(14)]
    alone = responses(build(checkpoint, scene_rows, 1), scene_rows, ask, limits)
    sizes: list[int] = []
    step = Flight.step

    def counted(flight: Flight[Any]) -> Any:
        sizes.append(len(flight))
        return step(flight)

    monkeypatch.setattr(Flight, "step", counted)
    together = responses(build(checkpoint, scene_rows, 6), scene_rows, ask, limits)
    tokens = sum(counts["output_tokens"] for _, counts in alone)
    assert max(sizes) <= 6
    # Batches of six that wait for their longest would take a step a token of each batch's longest answer.
    assert len(sizes) < 1.5 * tokens / 6
    assert any(later > earlier for earlier, later in itertools.pairwise(sizes))  # rows have joined
    for (text, counts), (other, others) in zip(alone, together, strict=True):
        assert text == other
        assert counts["output_tokens"] == others["output_tokens"]
        logprob = counts["reasoning_tokens"]["logprob"]
        assert others["reasoning_tokens"]["logprob"] == pytest.approx(logprob, abs=1e-4)


def test_joined_caches_are_aligned_at_the_end_and_grow_in_place() -> None:
    first, second = build_cache(), build_cache()
    torch.manual_seed(0)
    long, short = torch.randn(2, 1, 5, 4), torch.randn(3, 1, 3, 4)
    first.update(long, 2 * long, 0)
    second.update(short, 2 * short, 0)
    # Row 1 of the first, whose first two places are padding, and rows 2 and 0 of the second.
    joined = join_caches([(first, torch.tensor([1]), slice(2, 5)), (second, torch.tensor([2, 0]), slice(0, 3))], 3)
    expected = torch.stack([long[1, :, 2:], short[2], short[0]])
    torch.testing.assert_close(joined.layers[0].keys, expected)
    torch.testing.assert_close(joined.layers[0].values, 2 * expected)
    address = joined.layers[0].keys.data_ptr()
    for _ in range(20):
        new = torch.randn(3, 1, 1, 4)
        keys, _ = joined.update(new, new, 0)
        expected = torch.cat([expected, new], dim=2)
        torch.testing.assert_close(keys, expected)
    assert keys.data_ptr() == address


def test_free_memory_and_the_size_of_a_position_give_the_room(
    checkpoint: Path, scene_rows: Any, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two layers of one key head of 16 numbers: keys and values of a position are 2 * 2 * 16 float32 = 256 bytes.
    monkeypatch.setattr(_room, "_free_bytes", lambda device: 256_000)
    model = build(checkpoint, scene_rows, "auto")
    assert model.room.cache_positions == int(0.6 * 1000)
    assert model.room.rows == _room.ROWS["cpu"]

"""A compiled step: few shapes, each captured whole and once, and answers that do not show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from vlm_backbones.errors import ConfigError
from vlm_backbones.model_wrappers import _compiled, _room
from vlm_backbones.model_wrappers._cache import Part, aligned_layers, build_cache, join_caches
from vlm_backbones.model_wrappers._compiled import CompiledStep
from vlm_backbones.model_wrappers._room import Room, fixed_shape
from vlm_backbones.model_wrappers.backbone_vlm import BackboneVLM
from vlm_backbones.tasks.common import doc_to_visual
from vlm_backbones.tasks.vqa_scene.utils import doc_to_text
from vlm_backbones.vlm import compose, save

GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": True}
WINDOWED: dict[str, dict[str, Any]] = {
    "mistral": {},
    "gemma3_text": {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]) -> list[tuple[Any, list[Any]]]:
    """The graphs that are compiled, with their inputs; without inductor, whose C++ takes ten seconds a graph."""
    threads(1)
    found = []

    def watched(graph: Any, inputs: list[Any]) -> Any:
        found.append((graph, inputs))
        return aot_eager(graph, inputs)

    monkeypatch.setattr(_compiled, "HOW", {"backend": watched})
    monkeypatch.setattr(_room, "FIXED_POSITIONS", 32)
    return found


def build(folder: Path, rows: Any, *, compile: bool | str, batch_size: int = 6) -> BackboneVLM:
    model = BackboneVLM(pretrained=str(folder), batch_size=batch_size, device="cpu", compile=compile)
    model.task_dict = {"vqa_scene": {"test": rows}}
    return model


def answers(model: BackboneVLM, rows: Any, ask: Any) -> tuple[list[tuple[str, int]], list[float]]:
    """Return texts with their tokens, and log-probabilities, of answers of many lengths, some ended by a stop."""
    requests = [
        ask(
            doc_to_text(row),
            {"max_new_tokens": 40 if index % 5 == 0 else 4 + index, "until": ["e"]},
            doc_to_visual,
            index,
        )
        for index, row in enumerate(rows)
    ]
    found = model.generate_until(requests)
    texts = [(text, counts["output_tokens"]) for text, counts in found]
    return texts, [counts["reasoning_tokens"]["logprob"] for _, counts in found]


def test_rows_join_and_leave_with_the_answers_of_the_uncompiled_step(
    checkpoint: Path, scene_rows: Any, ask: Any, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = scene_rows.select(range(14))
    texts, logprobs = answers(build(checkpoint, rows, compile=False), rows, ask)
    assert not graphs
    shapes = []
    call = CompiledStep.__call__

    def counted(step: CompiledStep, engine: Any, tokens: Any, positions: Any, visible: Any, cache: Any) -> Any:
        shapes.append(tuple(visible.shape))
        assert len(tokens) == len(positions) == len(visible) == len(cache.layers[0].keys)
        return call(step, engine, tokens, positions, visible, cache)

    monkeypatch.setattr(CompiledStep, "__call__", counted)
    model = build(checkpoint, rows, compile="true")
    for _ in range(2):  # the second time nothing is compiled anew, and what lay there before does not matter
        found, found_logprobs = answers(model, rows, ask)
        assert found == texts
        assert found_logprobs == pytest.approx(logprobs, abs=1e-4)
    assert all(count in (1, 2, 4, 8) and positions % 32 == 0 for count, positions in shapes)
    assert len(shapes) > 5 * len(set(shapes)) > 10
    assert len(graphs) == len(set(shapes))  # a whole graph a shape, whatever the step


def test_a_cuda_graph_would_copy_nothing_but_three_small_tables(
    checkpoint: Path, scene_rows: Any, ask: Any, graphs: list[Any]
) -> None:
    """What a graph writes to has to be marked as staying where it is, else torch records none."""
    rows = scene_rows.select(range(3))
    answers(build(checkpoint, rows, compile=True), rows, ask)
    graph, inputs = graphs[0]
    places = [node for node in graph.graph.nodes if node.op == "placeholder"]
    moving = [
        tuple(value.shape)
        for node, value in zip(places, inputs, strict=True)
        if not node.meta["tensor_dict"].get("_dynamo_static_input_type")
    ]
    count, positions = max(moving, key=len)
    assert sorted(moving) == [(count,), (count,), (count, positions)]  # tokens, positions, visible


@pytest.mark.parametrize("kind", WINDOWED)
def test_layers_that_see_a_window_back_see_the_same(
    kind: str, tiny_parts: ModuleType, parts: Path, tmp_path: Path, scene_rows: Any, ask: Any, graphs: list[Any]
) -> None:
    folder = tiny_parts.build_backbone_like(tmp_path, parts / "backbone", kind, **WINDOWED[kind], sliding_window=12)
    save(*compose(folder, parts / "tower"), tmp_path / "vlm")
    rows = scene_rows.select(range(4)).map(lambda row: {"image": row["image"].resize((112, 112))})
    texts, logprobs = answers(build(tmp_path / "vlm", rows, compile=False), rows, ask)
    found, found_logprobs = answers(build(tmp_path / "vlm", rows, compile=True), rows, ask)
    assert (found, len(graphs) > 0) == (texts, True)
    assert found_logprobs == pytest.approx(logprobs, abs=1e-4)


def test_where_memory_runs_out_as_rows_move_half_begin_again_in_less(
    checkpoint: Path, scene_rows: Any, ask: Any, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = scene_rows.select(range(14))
    texts, _ = answers(build(checkpoint, rows, compile=False), rows, ask)
    model = build(checkpoint, rows, compile=True)
    freed = []

    def narrow(parts: Sequence[Part], length: int) -> Iterator[list[torch.Tensor]]:
        for layer, states in enumerate(aligned_layers(parts, length)):
            if not freed and len(parts) == 2 and layer == 1:  # a join, after the first layer's rows have moved
                freed.append(sum(map(len, model.engine.compiled._memory.values())))
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            yield states

    monkeypatch.setattr(_compiled, "aligned_layers", narrow)
    assert answers(model, rows, ask)[0] == texts
    assert model.batch_sizes["rows"] < 6
    assert sum(map(len, model.engine.compiled._memory.values())) < freed[0]


def test_caches_of_all_shapes_share_one_memory_and_move_within_it() -> None:
    torch.manual_seed(0)
    read, step = build_cache(), CompiledStep(torch.add)
    states = torch.randn(2, 3, 1, 5, 4)  # layer, row, head, position, size
    for layer in range(2):
        read.update(states[layer], 2 * states[layer], layer)
    first = step.join_caches([(read, torch.tensor([2, 0, 1]), slice(0, 5))], 5, (4, 8))
    address = first.layers[1].values.data_ptr()
    new = torch.randn(4, 1, 1, 4)
    for layer in range(2):
        keys, _ = first.update(new, new, layer)
        torch.testing.assert_close(keys[:3, :, :5], states[layer][[2, 0, 1]])
        torch.testing.assert_close(keys[:, :, 5:6], new)
        assert not keys[:, :, 6:].any()
    parts = [(first, torch.tensor([2]), slice(1, 6)), (read, torch.tensor([0]), slice(2, 5))]
    expected = join_caches(parts, 5)
    second = step.join_caches(parts, 5, (2, 16))  # as large as the first, and in its place
    for layer, wanted in zip(second.layers, expected.layers, strict=True):
        torch.testing.assert_close(layer.keys[:, :, :5], wanted.keys)
        torch.testing.assert_close(layer.values[:, :, :5], wanted.values)
        assert not layer.values[:, :, 5:].any()
    assert second.layers[1].values.data_ptr() == address
    assert int(second.layers[0].cumulative_length) == 5


def test_the_room_counts_the_whole_shape() -> None:
    assert [fixed_shape(rows, 1) for rows in (1, 2, 3, 8, 9)] == [(1, 256), (2, 256), (4, 256), (8, 256), (16, 256)]
    assert [fixed_shape(1, positions)[1] for positions in (256, 257)] == [256, 512]
    room = Room(64, 8_192, cache_positions=5_000, feature_bytes=0)
    assert room.rows_of(300) == 16
    room.compiled = True
    assert room.rows_of(300) == 8  # nine rows of 512 positions would fit, sixteen would not
    assert room.rows_of(5_000) == 0
    room.asked = 6
    assert room.rows_of(300) == 6  # in eight


def test_a_step_that_torch_cannot_take_whole_is_refused(
    checkpoint: Path, scene_rows: Any, ask: Any, graphs: list[Any]
) -> None:
    rows = scene_rows.select(range(2))
    model = build(checkpoint, rows, compile=True)
    inner = model.engine.backbone

    def breaking(embeddings: torch.Tensor, *given: Any) -> torch.Tensor:
        hidden: torch.Tensor = inner(embeddings, *given)
        return hidden if hidden.sum() > 0 else -hidden

    object.__setattr__(model.engine, "backbone", breaking)
    with pytest.raises(ConfigError, match=r"torch cannot compile this backbone's step .*Leave compile=true out"):
        answers(model, rows, ask)


def test_compile_is_true_or_false(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="compile 'max' is neither true nor false"):
        BackboneVLM(pretrained=str(checkpoint), device="cpu", compile="max")

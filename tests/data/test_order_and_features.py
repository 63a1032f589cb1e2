"""The order of steps, and the feature cache: computed once, checked, rebuilt when damaged."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vlm_backbones.data.conversations import load_examples
from vlm_backbones.data.feature_cache import (
    FeatureSpec,
    build_feature_cache,
    feature_folder,
    feature_statistics,
    unique_images,
)
from vlm_backbones.data.order import GROUPED_BATCHES, build_order, count_steps, order_examples
from vlm_backbones.errors import DataError
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.vision import get_vision_tower
from vlm_backbones.vision.preprocessing import build_image_processor
from vlm_backbones.vlm.composition import load_vision_tower


def test_every_epoch_shows_every_example_once_and_the_seed_decides() -> None:
    lengths = np.random.default_rng(0).integers(10, 500, 103).tolist()
    order = build_order(lengths, batch_size=8, steps=26, seed=1)
    assert order == build_order(lengths, batch_size=8, steps=26, seed=1)
    assert order != build_order(lengths, batch_size=8, steps=26, seed=2)
    seen = np.bincount(np.concatenate(order), minlength=103)
    assert {len(step) for step in order} == {8}
    assert set(seen.tolist()) <= {1, 2, 3}  # 26 steps of 8 are two epochs and two examples


def test_fewer_examples_than_a_batch_repeat() -> None:
    assert [len(step) for step in build_order([1, 2, 3], batch_size=4, steps=3, seed=0)] == [4, 4, 4]
    with pytest.raises(DataError, match="no examples"):
        build_order([], batch_size=4, steps=1, seed=0)


def test_steps_follow_from_epochs() -> None:
    assert count_steps(100, 8, None, 2.0) == 25
    assert count_steps(100, 8, 7, None) == 7


def test_steps_in_epochs_are_those_of_the_published_runs() -> None:
    assert count_steps(558_128, 256, None, 1.0) == 2181
    assert count_steps(665_298, 128, None, 1.0) == 5198


def test_batches_by_modality_mix_only_in_what_is_left_over() -> None:
    with_image = [index % 3 > 0 for index in range(100)]  # 66 with, 34 without
    options = {"batch_size": 8, "steps": 12, "seed": 0, "with_image": with_image}
    order = build_order([1] * 100, grouping="modality", **options)
    kinds = [{with_image[index] for index in step} for step in order]
    # the 96 first examples fill 12 batches, of which at most two are made of leftovers
    assert sum(len(kind) == 2 for kind in kinds) <= 2
    assert [{True} in kinds, {False} in kinds] == [True, True]
    assert len({index for step in order for index in step}) == 96
    assert kinds != sorted(kinds, key=str)  # the two kinds take turns
    mixed = build_order([1] * 100, grouping="none", **options)
    assert sum(len({with_image[index] for index in step}) == 2 for step in mixed) > 6


def test_a_few_batches_are_sorted_by_length_together() -> None:
    lengths = np.random.default_rng(0).permutation(96).tolist()
    order = build_order(lengths, batch_size=8, steps=12, seed=0, grouping="length")
    assert sorted(index for step in order for index in step) == list(range(96))
    for start in range(0, 12, GROUPED_BATCHES):
        run = [[lengths[index] for index in step] for step in order[start : start + GROUPED_BATCHES]]
        assert all(step == sorted(step) for step in run)
        assert run != sorted(run)  # shuffled again: no step is always the longest
        in_turn = sorted(run)
        assert all(left[-1] < right[0] for left, right in pairwise(in_turn))
    # the batches of one run hold lengths of the whole data, not its shortest
    assert max(lengths[index] for step in order[:GROUPED_BATCHES] for index in step) > 80


@pytest.mark.parametrize("grouping", ["length", "modality", "none"])
def test_the_order_of_examples_is_that_of_their_recipe(grouping: str) -> None:
    recipe = StageRecipe.model_validate(
        {
            **{"trainable": ["llm"], "learning_rate": 1e-4, "max_length_tokens": 64, "epochs": 1.5},
            **{"batch_size": 4, "data_seed": 7, "batch_grouping": grouping},
        }
    )
    sizes = np.random.default_rng(1).permutation(20).tolist()
    examples: Any = [SimpleNamespace(length=size, image=None if size % 2 else object()) for size in sizes]
    with_image = [size % 2 == 0 for size in sizes]
    options = {"batch_size": 4, "steps": 8, "seed": 7, "grouping": grouping, "with_image": with_image}  # 30 in fours
    assert order_examples(examples, recipe) == build_order(sizes, **options)
    shorter = recipe.model_copy(update={"epochs": None, "steps": 3})
    assert order_examples(examples, shorter) == build_order(sizes, **{**options, "steps": 3})


@pytest.fixture
def spec(parts: Path) -> FeatureSpec:
    row = get_vision_tower(parts / "tower")
    return FeatureSpec(load_vision_tower(row), build_image_processor(row), row.feature_layers, row.select_strategy)


def test_the_cache_holds_the_towers_states_and_their_statistics(parts: Path, spec: FeatureSpec, tmp_path: Path) -> None:
    images = unique_images(load_examples([parts / "data"]))
    cache = build_feature_cache(feature_folder(tmp_path, images, spec), images, spec, budget_bytes=10**9)
    assert cache is not None
    wanted = spec.compute(list(images.values()))  # (images, 17, 32)
    assert torch.allclose(cache.gather(range(len(images))), wanted, atol=2e-3)
    flat = cache.gather(range(len(images))).flatten(0, 1)
    assert torch.allclose((flat - cache.mean).mean(0), torch.zeros(32), atol=1e-4)
    assert torch.allclose(flat.std(0, correction=0), cache.std, atol=1e-3)


def test_the_statistics_without_a_cache_are_the_caches(parts: Path, spec: FeatureSpec, tmp_path: Path) -> None:
    images = unique_images(load_examples([parts / "data"]))
    cache = build_feature_cache(feature_folder(tmp_path / "cached", images, spec), images, spec, budget_bytes=10**9)
    assert cache is not None
    place, calls = feature_folder(tmp_path / "streamed", images, spec), []
    for _ in range(2):  # computed, then remembered
        mean, std = feature_statistics(place, images, spec, lambda *now: calls.append(now))
        assert torch.equal(mean, cache.mean)
        assert torch.equal(std, cache.std)
    assert calls == [(len(images), len(images))]


def test_a_second_opening_computes_nothing_and_a_damaged_cache_is_named_and_rebuilt(
    parts: Path, spec: FeatureSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = unique_images(load_examples([parts / "data"]))
    calls: list[tuple[int, int]] = []

    place = feature_folder(tmp_path, images, spec)

    def build() -> None:
        assert build_feature_cache(place, images, spec, budget_bytes=10**9, progress=lambda *now: calls.append(now))

    build()
    first = len(calls)
    build()
    assert first == len(calls) > 0
    states = next(tmp_path.glob("*/states.npy"))
    content = bytearray(states.read_bytes())
    content[-1] ^= 1
    states.write_bytes(content)
    build()
    assert len(calls) == 2 * first
    assert f"{states} is damaged" in capsys.readouterr().out


def test_a_set_beyond_the_budget_is_not_cached(parts: Path, spec: FeatureSpec, tmp_path: Path) -> None:
    images = unique_images(load_examples([parts / "data"]))
    assert build_feature_cache(feature_folder(tmp_path, images, spec), images, spec, budget_bytes=1000) is None
    assert not list(tmp_path.glob("*/states.npy"))

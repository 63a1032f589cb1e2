"""The probe measures a picture's features computed and read, decides by both, and is made once a study."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from vlm_backbones.data import feature_probe
from vlm_backbones.data.conversations import ImageSource, load_examples
from vlm_backbones.data.feature_cache import FeatureSpec, unique_images
from vlm_backbones.data.feature_probe import FeatureProbe, probe_features
from vlm_backbones.vision import get_vision_tower
from vlm_backbones.vision.preprocessing import build_image_processor
from vlm_backbones.vlm.composition import load_vision_tower
from vlm_backbones.vlm.products import speed_linear_layers


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On several, torch divides an attention as small as the tiny tower's in ways that depend on the batch."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def spec(parts: Path) -> FeatureSpec:
    row = get_vision_tower(parts / "tower")
    tower = load_vision_tower(row)
    speed_linear_layers(tower)
    return FeatureSpec(tower, build_image_processor(row), row.feature_layers, row.select_strategy)


@pytest.fixture
def images(parts: Path) -> dict[bytes, ImageSource]:
    return unique_images(load_examples([parts / "data"]))


def test_it_measures_once_and_again_where_its_file_is_damaged_or_of_other_threads(
    spec: FeatureSpec, images: dict[bytes, ImageSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = probe_features(tmp_path, images, spec)
    assert min(probe.read_seconds, probe.compute_seconds) > 0
    assert probe.is_same_alone
    assert [path.name for path in tmp_path.iterdir()] == ["probe.json"]
    other = FeatureProbe(1.0, 2.0, False, threads=1)
    monkeypatch.setattr(feature_probe, "_measure", lambda *given: other)
    assert probe_features(tmp_path, images, spec) == probe
    for damaged in ({"compute_seconds": 1}, {**asdict(probe), "threads": 2}):
        (tmp_path / "probe.json").write_text(json.dumps(damaged))
        assert probe_features(tmp_path, images, spec) == other


class Batched(FeatureSpec):
    """A tower whose sums depend on how many pictures it reads, as a GPU's may."""

    def compute(self, images: Sequence[ImageSource]) -> torch.Tensor:
        return super().compute(images) * (1 + 0.01 * len(images))


def test_it_sees_bits_that_depend_on_the_batch(
    spec: FeatureSpec, images: dict[bytes, ImageSource], tmp_path: Path
) -> None:
    batched = Batched(spec.tower, spec.image_processor, spec.layers, spec.select_strategy)
    assert not probe_features(tmp_path, images, batched).is_same_alone


@pytest.mark.parametrize(
    ("read", "views", "needs_statistics", "saves"),
    [
        (0.1, 500, False, True),  # 100 + 50 s against 500
        (0.1, 110, False, False),  # 100 + 11 against 110
        (0.1, 112, False, True),  # 100 + 11.2 against 112
        (0.1, 10, True, True),  # 100 + 1 against 10 + 100: all are computed once in any case
        (1.5, 500, True, False),  # 100 + 750 against 500 + 100: a disk slower than the tower
    ],
)
def test_a_cache_saves_where_reading_is_faster_often_enough(
    read: float, views: float, needs_statistics: bool, saves: bool
) -> None:
    probe = FeatureProbe(compute_seconds=1.0, read_seconds=read, is_same_alone=True, threads=1)
    assert probe.saves(pictures=100, views=views, needs_statistics=needs_statistics) is saves

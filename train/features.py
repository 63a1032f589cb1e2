"""Compute the feature cache that all backbones of a study share.

python -m vlm_backbones.train.features --study pocket --out runs/pocket
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlm_backbones.data.conversations import Example, ImageSource, load_training_examples
from vlm_backbones.data.feature_cache import (
    FeatureCache,
    FeatureSpec,
    build_feature_cache,
    feature_folder,
    feature_statistics,
    unique_images,
)
from vlm_backbones.data.feature_probe import FeatureProbe, probe_features
from vlm_backbones.data.order import count_steps
from vlm_backbones.errors import ConfigError, VlmBackbonesError
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.study import Study, load_study
from vlm_backbones.train.processes import found_by_main, processes, sharding
from vlm_backbones.train.progress import Progress, quieten
from vlm_backbones.train.weights import working_copy
from vlm_backbones.vision import get_vision_tower, squared_as
from vlm_backbones.vision.preprocessing import build_image_processor, preprocess_images
from vlm_backbones.vlm.composition import load_vision_tower
from vlm_backbones.vlm.passthrough import PassthroughTower, StandardizedTower
from vlm_backbones.vlm.products import speed_linear_layers

VERSION = 3
"""Raised when cached features change."""


@dataclass(frozen=True)
class Features:
    """What the projector reads in training: cached states, or pixels for the tower where they are not cached."""

    spec: FeatureSpec
    cache: FeatureCache | None
    mean: torch.Tensor
    std: torch.Tensor
    probe: FeatureProbe | None = None
    """What computing and reading them take; None where there are no pictures."""

    def facts(self) -> dict[str, Any]:
        """Return what run.json says of them."""
        return {"is_cached": self.cache is not None, **(asdict(self.probe) if self.probe else {})}

    def tower(self) -> nn.Module:
        """Return the module that takes the tower's place in the model."""
        if self.cache is not None:
            return PassthroughTower(self.spec.layers, self.mean, self.std)
        return StandardizedTower(working_copy(self.spec.tower), self.spec.layers, self.mean, self.std)

    def handle(self, image: ImageSource) -> int | ImageSource:
        """Return what `gather` takes for a picture: its row in the cache, found once, or the picture."""
        return image if self.cache is None else self.cache.row(image)

    def gather(self, handles: Sequence[int | ImageSource]) -> torch.Tensor:
        """Return what the tower's stand-in takes as `pixel_values` for these pictures."""
        rows = [handle for handle in handles if isinstance(handle, int)]
        if self.cache is not None:
            return self.cache.gather(rows)
        images = [handle.open() for handle in handles if isinstance(handle, ImageSource)]
        return preprocess_images(self.spec.image_processor, images)


def load_features(study: Study, out: Path, examples: dict[str, list[Example]]) -> dict[str, Features]:
    """Return the features of each stage's pictures, from the cache under `out` where they fit and it saves time.

    Stages whose pictures are preprocessed alike share one cache. All stages are standardised by the last one's mean
    and deviation, since one projector goes through them all; where the recipe says not to, by 0 and 1.
    """
    row = get_vision_tower(study.vision_tower)
    tower: Any = load_vision_tower(row)
    speed_linear_layers(tower)
    if torch.cuda.is_available():
        tower = tower.to(processes().device)
    by_aspect: dict[str | None, Features] = {}
    stages = study.recipe.stages
    # before VipLlava's projector stands its own norm, into which nothing could be folded
    standardizes = study.recipe.standardize_features and not row.is_multi_layer
    for aspect in dict.fromkeys(stage.image_aspect_ratio for stage in stages.values()):
        alike = {name: stage for name, stage in stages.items() if stage.image_aspect_ratio == aspect}
        processor = build_image_processor(squared_as(row, aspect))
        spec = FeatureSpec(tower, processor, row.feature_layers, row.select_strategy)
        use = _Use(
            images=unique_images(example for name in alike for example in examples[name]),
            views=len(study.runs()) * sum(_views(examples[name], stage) for name, stage in alike.items()),
            standardizes=standardizes,
            is_exact=sharding() == "none" and {stage.precision for stage in alike.values()} == {"float32"},
        )
        by_aspect[aspect] = _features_of(spec, out, use)
    last = by_aspect[list(stages.values())[-1].image_aspect_ratio]
    return {
        name: replace(by_aspect[stage.image_aspect_ratio], mean=last.mean, std=last.std)
        for name, stage in stages.items()
    }


@dataclass(frozen=True)
class _Use:
    """What a study does with pictures that are prepared alike."""

    images: dict[bytes, ImageSource]
    views: float
    """How often they are read in all its trainings."""
    standardizes: bool
    is_exact: bool
    """Whether the tower computes in training as it does for the cache."""


def _views(examples: Sequence[Example], recipe: StageRecipe) -> float:
    steps = count_steps(len(examples), recipe.batch_size, recipe.steps, recipe.epochs)
    return steps * recipe.batch_size * sum(example.image is not None for example in examples) / len(examples)


def _features_of(spec: FeatureSpec, out: Path, use: _Use) -> Features:
    width = int(spec.tower.config.hidden_size) * len(spec.layers)  # type: ignore[union-attr]
    neutral = torch.zeros(width), torch.ones(width)
    if not use.images:  # text only: the projector sees no features
        return Features(spec, None, *neutral)
    budget = int(_budget_gb() * 2**30)
    place = feature_folder(out / "features", use.images, spec)
    # by the main process: towers in some and caches in others could not train together
    probe = found_by_main(lambda: probe_features(place, use.images, spec))
    may_choose = use.is_exact and probe.is_same_alone
    pays = probe.saves(pictures=len(use.images), views=use.views, needs_statistics=use.standardizes)
    is_wanted = pays or not may_choose
    progress = Progress(out / "progress.json", "features").update
    cache = build_feature_cache(place, use.images, spec, budget_bytes=budget, progress=progress) if is_wanted else None
    if processes().is_main_process:
        why = "" if may_choose else " (not by these times: computed in training they would have other last digits)"
        if is_wanted and cache is None:
            why = " (larger than VLM_BACKBONES_FEATURE_CACHE_GB)"
        print(f"{_measured(probe, use)}: {'not cached' if cache is None else 'cached'}{why}", flush=True)
    if cache is not None:
        return Features(spec, cache, *((cache.mean, cache.std) if use.standardizes else neutral), probe)
    known = feature_statistics(place, use.images, spec, progress) if use.standardizes else neutral
    return Features(spec, None, *known, probe)


def _measured(probe: FeatureProbe, use: _Use) -> str:
    times = f"{1000 * probe.compute_seconds:.1f} ms a picture to compute, {1000 * probe.read_seconds:.2f} ms to read"
    return f"features: {times}; {len(use.images):,} pictures, read {use.views:,.0f} times"


def _budget_gb() -> float:
    given = os.environ.get("VLM_BACKBONES_FEATURE_CACHE_GB", "8")
    try:
        budget = float(given)
    except ValueError:
        budget = -1.0
    if not budget >= 0:
        raise ConfigError(f"VLM_BACKBONES_FEATURE_CACHE_GB={given!r} is no number of gigabytes, as in 8 or 0.5.")
    return budget


def main(argv: Sequence[str] | None = None) -> int:
    """Compute the cache; 0 on success, 2 on what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", required=True, help="name or YAML file of a study")
    parser.add_argument("--out", type=Path, required=True, help="the study's output folder")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    arguments = parser.parse_args(argv)
    quieten()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        study = load_study(arguments.study)
        features = load_features(study, arguments.out, load_training_examples(study.data, study.recipe.stages))
    except VlmBackbonesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, stage in features.items():
        count = "none cached, computed as they are read" if stage.cache is None else f"{len(stage.cache.rows)} cached"
        print(f"features of the pictures of {name}: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

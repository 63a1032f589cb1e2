"""Compute the feature cache that all backbones of a study share.

python -m vlm_backbones.train.features --study pocket --out runs/pocket
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlm_backbones.data.conversations import Example, ImageSource, load_training_examples
from vlm_backbones.data.feature_cache import (
    FeatureCache,
    FeatureSpec,
    build_feature_cache,
    feature_statistics,
    unique_images,
)
from vlm_backbones.errors import ConfigError, VlmBackbonesError
from vlm_backbones.study import Study, load_study
from vlm_backbones.train.processes import processes
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
    """What the projector reads in training: cached states, or pixels for the tower where the set is too large."""

    spec: FeatureSpec
    cache: FeatureCache | None
    mean: torch.Tensor
    std: torch.Tensor

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
    """Return the features of each stage's pictures, from the cache under `out` where they fit.

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
    for aspect in dict.fromkeys(stage.image_aspect_ratio for stage in stages.values()):
        rows = [examples[name] for name, stage in stages.items() if stage.image_aspect_ratio == aspect]
        processor = build_image_processor(squared_as(row, aspect))
        spec = FeatureSpec(tower, processor, row.feature_layers, row.select_strategy)
        by_aspect[aspect] = _features_of(spec, out, unique_images(example for each in rows for example in each))
    last = by_aspect[list(stages.values())[-1].image_aspect_ratio]
    mean, std = last.mean, last.std
    # before VipLlava's projector stands its own norm, into which nothing could be folded
    if row.is_multi_layer or not study.recipe.standardize_features:
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    return {name: replace(by_aspect[stage.image_aspect_ratio], mean=mean, std=std) for name, stage in stages.items()}


def _features_of(spec: FeatureSpec, out: Path, images: dict[bytes, ImageSource]) -> Features:
    if not images:  # text only: the projector sees no features
        width = int(spec.tower.config.hidden_size) * len(spec.layers)  # type: ignore[union-attr]
        return Features(spec, None, torch.zeros(width), torch.ones(width))
    budget = _budget_gb() * 2**30
    progress = Progress(out / "progress.json", "features")
    cache = build_feature_cache(out / "features", images, spec, budget_bytes=int(budget), progress=progress.update)
    if cache is not None:
        return Features(spec, cache, cache.mean, cache.std)
    mean, std = feature_statistics(images, spec)
    return Features(spec, None, mean, std)


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
        count = "larger than the budget: they stream" if stage.cache is None else f"{len(stage.cache.rows)} cached"
        print(f"features of the pictures of {name}: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

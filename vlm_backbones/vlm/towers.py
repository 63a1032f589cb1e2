"""Load a vision tower as transformers' own class, and check that it is what its row says."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPVisionModel, Dinov2Model, PreTrainedModel, SiglipVisionModel

from vlm_backbones._hub import loading_options, opening_error
from vlm_backbones.errors import CheckpointError, ConfigError
from vlm_backbones.vision import VisionTower
from vlm_backbones.vlm.whole_weights import check_loaded

__all__ = ["TOWER_CLASSES", "check_tower", "load_vision_tower"]

TOWER_CLASSES: dict[str, Any] = {"clip": CLIPVisionModel, "dinov2": Dinov2Model, "siglip": SiglipVisionModel}


def load_vision_tower(row: VisionTower, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return the frozen vision tower of a registry row, in evaluation mode.

    Raises
    ------
    CheckpointError
        If it cannot be loaded, its weights are not whole, or it is of another size than its row says.
    ConfigError
        If it has no such feature layer.
    """
    load = TOWER_CLASSES[row.family].from_pretrained
    try:
        tower, report = load(
            row.source, dtype=dtype, weights_only=True, output_loading_info=True, **loading_options(row)
        )
    except Exception as error:  # a damaged file makes transformers raise nearly anything
        raise opening_error("vision tower", row, error) from error
    check_loaded(row, tower, report)
    check_tower(row, tower.config)
    frozen: PreTrainedModel = tower.requires_grad_(False).eval()
    return frozen


def check_tower(row: VisionTower, config: Any) -> None:
    """Compare a row with the tower's own configuration.

    Raises
    ------
    CheckpointError
        If patches or pictures have another size.
    ConfigError
        If a feature layer lies beyond the tower's hidden states: one more than it has layers.
    """
    # DINOv2 interpolates its positions to any size
    sizes = {"patch_size": row.patch_size} | ({} if row.family == "dinov2" else {"image_size": row.image_size})
    for name, expected in sizes.items():
        if getattr(config, name) != expected:
            raise CheckpointError(
                f"vision tower {row.id}: {name} of {row.source} is {getattr(config, name)}, its row says {expected}."
            )
    states = int(config.num_hidden_layers) + 1
    for layer in row.feature_layers:
        if not -states <= layer < states:
            raise ConfigError(
                f"vision tower {row.id}: no feature layer {layer}; it has {states} hidden states, {-states} to "
                f"{states - 1}. Change feature_layer in its row."
            )

"""A VLM's shapes without its files: configurations from the registries' rows, and the model on the meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, CLIPVisionConfig, Dinov2Config, SiglipVisionConfig

from vlm_backbones._hub import loading_options, opening_error
from vlm_backbones.backbones import Backbone
from vlm_backbones.vision import VisionTower
from vlm_backbones.vlm.composition import Vlm, build_skeleton

__all__ = ["build_on_meta", "text_config", "vision_config"]

_TOWER_CONFIGS: dict[str, Any] = {"clip": CLIPVisionConfig, "dinov2": Dinov2Config, "siglip": SiglipVisionConfig}


def text_config(row: Backbone) -> Any:
    """Return a backbone's configuration: from its folder, else what its row says of its shapes, else from the hub.

    Raises
    ------
    CheckpointError
        If there is none of them.
    """
    if row.config is not None and not Path(row.source).is_dir():
        facts: dict[str, Any] = dict(row.config)
        return AutoConfig.for_model(facts.pop("model_type"), **facts)
    return _read_config(row)


def vision_config(row: VisionTower) -> Any:
    """Return a tower's configuration, as `text_config` does."""
    if row.config is not None and not Path(row.source).is_dir():
        return _TOWER_CONFIGS[row.family](image_size=row.image_size, patch_size=row.patch_size, **row.config)
    config = _read_config(row)
    return getattr(config, "vision_config", config)


def _read_config(row: Backbone | VisionTower) -> Any:
    loader: Any = AutoConfig
    try:
        return loader.from_pretrained(row.source, trust_remote_code=False, **loading_options(row))
    except (OSError, ValueError) as error:
        raise opening_error("the configuration of", row, error) from error


def build_on_meta(backbone: Backbone, tower: VisionTower) -> Vlm:
    """Return the composed VLM without storage, at full size, before an image token is added."""
    config = text_config(backbone)
    return build_skeleton(config, vision_config(tower), tower, int(config.vocab_size) - 1)

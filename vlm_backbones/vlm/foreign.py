"""Checkpoints in transformers' format that others saved, such as `llava-hf/*`: what older ones leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoConfig

from vlm_backbones.errors import CheckpointError
from vlm_backbones.vision.registry import CLASS_TOKENS
from vlm_backbones.vlm.original.config import VIP_LAYERS

__all__ = ["match_processor", "read_model_config"]


def read_model_config(folder: Path) -> Any:
    """Return a checkpoint's configuration; a VipLlava that names one layer but holds a norm of five gets its five.

    The first published ones carry `vision_feature_layer: -2`, which their code ignored.
    """
    loader: Any = AutoConfig
    config = loader.from_pretrained(folder, trust_remote_code=False)
    if config.model_type == "vipllava" and isinstance(config.vision_feature_layer, int):
        width = _norm_width(folder)
        if width == len(VIP_LAYERS) * config.vision_config.hidden_size:
            config.vision_feature_layer = list(VIP_LAYERS)
    return config


def _norm_width(folder: Path) -> int | None:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dictionary)
                if name.endswith("projector_layernorm.weight"):
                    return int(file.get_slice(name).get_shape()[0])
    return None


def match_processor(folder: Path, config: Any, processor: Any) -> None:
    """Fill in what an old processor does not say, and compare its image tokens with the model's features.

    Raises
    ------
    CheckpointError
        If they differ: every prompt would have the wrong number of image tokens.
    """
    vision = config.vision_config
    family = str(vision.model_type).removesuffix("_vision_model").removesuffix("_model")
    if family not in CLASS_TOKENS:
        return
    strategy = getattr(config, "vision_feature_select_strategy", "default")  # VipLlava always drops the class token
    own = {"patch_size": vision.patch_size, "vision_feature_select_strategy": strategy}
    if processor.patch_size is None:
        processor.num_additional_image_tokens = CLASS_TOKENS[family]
    for name, value in own.items():
        if getattr(processor, name, None) is None:
            setattr(processor, name, value)
    side = _side(processor.image_processor) or vision.image_size
    if family != "dinov2" and side != vision.image_size:
        raise CheckpointError(
            f"{folder}: the image processor makes pictures of {side} pixels, the vision tower takes "
            f"{vision.image_size}. Correct preprocessor_config.json."
        )
    features = (side // vision.patch_size) ** 2 + CLASS_TOKENS[family] - (strategy == "default")
    drops = processor.vision_feature_select_strategy == "default"
    tokens = (side // processor.patch_size) ** 2 + processor.num_additional_image_tokens - drops
    if tokens != features:
        raise CheckpointError(
            f"{folder}: the processor writes {tokens} image tokens for an image, the model has {features} features. "
            "Correct patch_size, num_additional_image_tokens and vision_feature_select_strategy in its processor's "
            "configuration."
        )


def _side(image_processor: Any) -> int | None:
    """Return the side of the pictures that an image processor makes; None where it leaves their size."""
    if getattr(image_processor, "do_center_crop", False):
        return int(image_processor.crop_size["height"])
    size = image_processor.size or {}
    return int(size["height"]) if image_processor.do_resize and "height" in size else None

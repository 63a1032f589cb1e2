"""Image preprocessing: the processor of a tower, and pictures to the pixels that the tower is fed.

Everything runs on transformers' PIL backend, in training and in evaluation: its pixels equal the original projects',
while the torchvision backend resizes up to 0.015 (after normalising) away from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers.models.clip import CLIPImageProcessorPil
from transformers.models.llava import LlavaImageProcessorPil

from vlm_backbones._hub import loading_options, opening_error
from vlm_backbones.errors import CheckpointError
from vlm_backbones.vision.registry import VisionTower

__all__ = ["BACKEND", "at_size", "build_image_processor", "padding_processor", "preprocess_images"]

BACKEND = "pil"


def build_image_processor(tower: VisionTower) -> Any:
    """Return the image processor that belongs to a tower; mean and std come from the tower's own files.

    LLaVA pads to a square on the mean colour; transformers' CLIP processor would cut the borders off
    (huggingface/transformers#33175), so towers that pad use LlavaImageProcessor with `do_pad`.
    """
    base = _own_processor(tower)
    return padding_processor(base, tower.image_size) if tower.pad_to_square else at_size(base, tower.image_size)


def padding_processor(base: Any, image_size: int) -> LlavaImageProcessorPil:
    """Return LLaVA's processor: padded to a square on the mean colour, then resized to `image_size` pixels a side."""
    return LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
        image_mean=base.image_mean,
        image_std=base.image_std,
        resample=base.resample,
    )


def _own_processor(tower: VisionTower) -> Any:
    folder = Path(tower.source)
    if folder.is_dir() and not (folder / "preprocessor_config.json").is_file():
        if tower.family != "clip":  # the others' mean and deviation are not CLIP's
            raise CheckpointError(f"vision tower {folder} lacks preprocessor_config.json: add it to the folder.")
        return CLIPImageProcessorPil()
    loader: Any = AutoImageProcessor
    try:
        return loader.from_pretrained(tower.source, backend=BACKEND, trust_remote_code=False, **loading_options(tower))
    except (OSError, ValueError) as error:
        raise opening_error("the image processor of vision tower", tower, error) from error


def at_size(base: Any, image_size: int) -> Any:
    """Return the processor with its own cut or stretch, at the row's size, which the tower's files may not name."""
    square = {"height": image_size, "width": image_size}
    if getattr(base, "do_center_crop", None):
        size: dict[str, int] = {"shortest_edge": image_size} if "shortest_edge" in base.size else square
        return type(base).from_dict({**base.to_dict(), "size": size, "crop_size": square})
    if base.do_resize:
        return type(base).from_dict({**base.to_dict(), "size": square})
    return base


def preprocess_images(processor: Any, images: Sequence[Image.Image | np.ndarray]) -> torch.Tensor:
    """Return pixel values, float32, (images, 3, height, width)."""
    pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
    return torch.as_tensor(pixels, dtype=torch.float32)

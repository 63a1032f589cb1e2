"""Image preprocessing: the processor of a tower, and pictures to the pixels that the tower is fed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, CLIPImageProcessor
from transformers.models.llava import LlavaImageProcessorPil

from vlm_backbones.vision.registry import VisionTower

__all__ = ["build_image_processor", "preprocess_images"]


def build_image_processor(tower: VisionTower) -> Any:
    """Return the image processor that belongs to a tower; mean and std come from the tower's own files.

    LLaVA pads to a square on the mean colour; transformers' CLIP processor would cut the borders off
    (huggingface/transformers#33175), so towers that pad use LlavaImageProcessor with `do_pad`.
    """
    base = _own_processor(tower)
    size = tower.image_size
    if not tower.pad_to_square:
        return base
    return LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=base.image_mean,
        image_std=base.image_std,
    )


def _own_processor(tower: VisionTower) -> Any:
    folder = Path(tower.source)
    if folder.is_dir() and not (folder / "preprocessor_config.json").is_file():
        size = tower.image_size
        return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    loader: Any = AutoImageProcessor
    return loader.from_pretrained(tower.source, revision=tower.revision)


def preprocess_images(processor: Any, images: Sequence[Image.Image | np.ndarray]) -> torch.Tensor:
    """Return pixel values, float32, (images, 3, height, width)."""
    pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
    return torch.as_tensor(pixels, dtype=torch.float32)

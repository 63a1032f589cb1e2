"""Image features, computed once an image within a run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from PIL.Image import Image

from vlm_backbones.model_wrappers._engine import Engine

__all__ = ["ImageEncoder"]


class ImageEncoder:
    """Runs the vision tower and the projector, and keeps the latest features within a budget of memory."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._features: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._bytes = 0

    def lacks(self, keys: Iterable[str]) -> bool:
        """Return whether any of the images would have to be computed."""
        return any(key not in self._features for key in keys)

    @property
    def tokens_an_image(self) -> int:
        """Return about how many tokens a picture becomes; its features say how many."""
        vision = self.engine.model.config.vision_config
        return int(vision.image_size // vision.patch_size) ** 2

    @torch.inference_mode()
    def encode(self, images: Mapping[str, Image]) -> dict[str, torch.Tensor]:
        """Return key -> features for one batch of images; features: (image_tokens, hidden)."""
        missing = [key for key in images if key not in self._features]
        fresh: dict[str, torch.Tensor] = {}
        room = self.engine.room
        while len(fresh) < len(missing):
            keys = missing[len(fresh) : len(fresh) + room.images]
            computed = room.try_with_images(len(keys), partial(self._compute, [images[key] for key in keys]))
            if computed is not None:
                fresh |= zip(keys, computed, strict=True)
        found = {key: fresh[key] if key in fresh else self._features[key] for key in images}
        for key, features in found.items():
            self._keep(key, features)
        return found

    def _compute(self, images: list[Image]) -> list[torch.Tensor]:
        model, config = self.engine.model, self.engine.model.config
        pixels = self.engine.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self.engine.device, model.dtype)  # (images, channels, height, width)
        arguments: dict[str, Any] = {"pixel_values": pixels}
        if hasattr(config, "vision_feature_layers"):  # ViP-LLaVA fuses several layers
            arguments["vision_feature_layer"] = config.vision_feature_layers
        else:
            arguments["vision_feature_layer"] = config.vision_feature_layer
            arguments["vision_feature_select_strategy"] = config.vision_feature_select_strategy
        # A copy an image: a view would keep the whole batch in memory.
        return [features.clone() for features in model.model.get_image_features(**arguments).pooler_output]

    def _keep(self, key: str, features: torch.Tensor) -> None:
        if key not in self._features:
            self._bytes += features.nbytes
        self._features[key] = features
        self._features.move_to_end(key)
        budget = self.engine.room.feature_bytes // self.engine.room.sharers
        while self._bytes > budget and len(self._features) > 1:
            _, dropped = self._features.popitem(last=False)
            self._bytes -= dropped.nbytes

"""Registry of vision towers (every name of `__all__`) and image preprocessing (from its module). No torch here."""

from __future__ import annotations

from vlm_backbones.vision.registry import VISION_TOWERS, VisionTower, get_vision_tower, list_vision_towers, squared_as

__all__ = ["VISION_TOWERS", "VisionTower", "get_vision_tower", "list_vision_towers", "squared_as"]

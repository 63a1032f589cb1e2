"""Registry of vision towers and image preprocessing; outside: VisionTower, get_vision_tower, list_vision_towers. No torch."""

from __future__ import annotations

from vlm_backbones.vision.registry import VISION_TOWERS, VisionTower, get_vision_tower, list_vision_towers

__all__ = ["VISION_TOWERS", "VisionTower", "get_vision_tower", "list_vision_towers"]

"""The scores of answers, re-exported for tasks and for users' scripts: see `vlm_backbones.scoring`."""

from __future__ import annotations

from vlm_backbones.scoring import (
    Coordinates,
    coordinate_error_km,
    coordinate_rungs,
    description_facts,
    normalize_vqa,
    parse_coordinates,
    vqa_accuracy,
)

__all__ = [
    "Coordinates",
    "coordinate_error_km",
    "coordinate_rungs",
    "description_facts",
    "normalize_vqa",
    "parse_coordinates",
    "vqa_accuracy",
]

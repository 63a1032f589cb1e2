"""Checkpoints in the original LLaVA and ViP-LLaVA format, read into transformers' classes; these names may be imported.

A folder of the original format says so by `mm_vision_tower` or `architectures` in its config.json; its name and its
`model_type` say nothing: "llava" is transformers' own type too.
"""

from __future__ import annotations

from vlm_backbones.vlm.original.config import is_original, read_config
from vlm_backbones.vlm.original.loading import convert, load_original

__all__ = ["convert", "is_original", "load_original", "read_config"]

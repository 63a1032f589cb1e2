"""Registry of LLM backbones, one YAML row each; every name of `__all__` may be imported from outside. No torch."""

from __future__ import annotations

from vlm_backbones.backbones.registry import BACKBONES, Backbone, get_backbone, list_backbones

__all__ = ["BACKBONES", "Backbone", "get_backbone", "list_backbones"]

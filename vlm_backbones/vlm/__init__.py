"""The whole VLM: tower + projector + backbone composed, saved, loaded, named by content; all names may be imported."""

from __future__ import annotations

from vlm_backbones.vlm.checkpoint import checkpoint_fingerprint, load, save
from vlm_backbones.vlm.composition import compose
from vlm_backbones.vlm.original import convert

__all__ = ["checkpoint_fingerprint", "compose", "convert", "load", "save"]

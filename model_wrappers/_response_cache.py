"""lmms-eval's response cache keys on the model's arguments alone: a retrained checkpoint at the same path would be
answered from old weights. The wrapper here adds what decides the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vlm_backbones.model_wrappers._wrapping import wrap_once

__all__ = ["install"]


def install() -> None:
    """Let our models bring their own identity to `ResponseCache.create`."""
    from lmms_eval.caching.response_cache import ResponseCache

    wrap_once(ResponseCache, "create", _create, is_static=True)


def _create(
    original: Callable[..., Any], cache_root: str, *, model: Any = "", model_args: Any = "", **others: Any
) -> Any:
    identity = _identity(model)
    if identity is not None and identity["states"] != "none":
        return None  # a cached answer would leave no hidden states behind
    if identity is not None:
        model, model_args = "backbone_vlm", dict(identity)
    return original(cache_root, model=model, model_args=model_args, **others)


def _identity(model: Any) -> Mapping[str, str] | None:
    from vlm_backbones.model_wrappers.backbone_vlm import BackboneVLM

    if isinstance(model, BackboneVLM):
        return model.identity
    # lmms-eval names the model and has just built it.
    return BackboneVLM.latest_identity if model == "backbone_vlm" else None

"""vlm-backbones: finetune one VLM on several LLM backbones, evaluate through lmms-eval, compare soundly.

Importing this package loads no torch; `compose` and `load` are resolved on first use.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "compose", "load"]


def __getattr__(name: str) -> Any:
    if name in {"compose", "load"}:
        from vlm_backbones import vlm

        return getattr(vlm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""lmms-eval's own functions, wrapped where it offers no other way in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["wrap_once"]

_MARK = "_vlm_backbones"


def wrap_once(owner: Any, name: str, replacement: Callable[..., Any], *, is_static: bool = False) -> None:
    """Let `replacement` be called in the place of a function of a class, with the function itself first.

    Done once: a second call changes nothing.
    """
    original = getattr(owner, name)
    if getattr(original, _MARK, False):
        return

    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        return replacement(original, *arguments, **options)

    setattr(wrapped, _MARK, True)
    setattr(owner, name, staticmethod(wrapped) if is_static else wrapped)

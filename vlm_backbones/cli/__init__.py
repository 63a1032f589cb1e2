"""The commands of `vlm-backbones`, a module a group; `app` and `main` may be imported from outside.

Everything heavy is imported inside the command that needs it.
"""

from __future__ import annotations

from vlm_backbones.cli._main import app, main

__all__ = ["app", "main"]

"""The pages' Jinja2 environment: everything is escaped, and what cannot be seen is written out."""

from __future__ import annotations

__all__ = ["page_template"]

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlm_backbones.analysis.report.pictures import legible

_HERE = Path(__file__).resolve().parent
_LONGEST = 4000


def page_template(name: str, filters: Mapping[str, Callable[..., Any]]) -> Any:
    """Return a template of this folder; `ours` marks our own style, script and pictures as safe."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=_finalize,
    )
    # Only our own files pass unescaped: style, script, and SVG that vl-convert escaped.
    environment.filters |= {**filters, "ours": Markup}
    return environment.get_template(name)


def _finalize(value: Any) -> Any:
    """Names and notes come from logs: what cannot be seen is written out; our own markup stays as it is."""
    return legible(value, _LONGEST) if isinstance(value, str) and not hasattr(value, "__html__") else value

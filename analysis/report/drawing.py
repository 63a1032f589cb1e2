"""Charts as SVG and PNG, on several cores where there are many; loads nothing but the renderer."""

from __future__ import annotations

__all__ = ["FONT", "MEASURED_FONT", "draw_all"]

import os
import re
from collections.abc import Sequence
from typing import Any

FONT = "Inter, ui-sans-serif, system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# Labels are laid out in the widest of the fonts that a reader may have, so that none of them is cut or touches another.
MEASURED_FONT = "DejaVu Sans"
_WORTH_WORKERS = 24
_MOST_WORKERS = 4
_SMALL_PNG_SCALE, _WIDE_PNG_SCALE = 2.0, 1.5
_WIDE = 600


def draw_all(specs: Sequence[dict[str, Any]]) -> list[tuple[str, bytes]]:
    """Return (SVG, PNG on white) of each Vega-Lite spec, in order."""
    workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    if len(specs) < _WORTH_WORKERS or workers == 1:
        return [_draw(spec) for spec in specs]
    from joblib import Parallel, delayed

    drawn: list[tuple[str, bytes]] = Parallel(n_jobs=workers)(delayed(_draw)(spec) for spec in specs)
    return drawn


def _draw(spec: dict[str, Any]) -> tuple[str, bytes]:
    import vl_convert

    svg = vl_convert.vegalite_to_svg(spec)
    svg = svg.replace(f'font-family="{MEASURED_FONT}"', f'font-family="{FONT}"')
    # The land behind maps is drawn at the size of its pixels: smoothing it would cost more than all the rest.
    svg = svg.replace("<image ", '<image image-rendering="optimizeSpeed" ')
    white = re.sub(r"(<svg[^>]*>)", r'\1<rect width="100%" height="100%" fill="white"/>', svg, count=1)
    # Drawing the finished SVG costs half as much as laying the chart out again.
    width = re.search(r'<svg[^>]*? width="([\d.]+)"', svg)
    is_wide = width is not None and float(width[1]) > _WIDE
    return svg, vl_convert.svg_to_png(white, scale=_WIDE_PNG_SCALE if is_wide else _SMALL_PNG_SCALE)

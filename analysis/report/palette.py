"""Colours and type of the charts; each colour has a CSS variable, so that the page can turn dark."""

from __future__ import annotations

__all__ = ["CHART_CONFIG", "RUN_COLORS", "RunColors", "run_legend", "themed"]

import re
from collections.abc import Sequence
from typing import Any

import altair as alt

from vlm_backbones.analysis.report.drawing import MEASURED_FONT

INK, MUTED, RULE, PAPER, WASH = "#1c1f23", "#667078", "#e2e3dd", "#fefefd", "#b9bdb6"
RUN_COLORS = ("#7d8799", "#2f7fb8", "#d55f2a", "#2b8a66", "#8459b8", "#a9861a", "#b5487a", "#0e8a99")
GOOD, BAD, ODD = "#2b8a67", "#c2413b", "#8e24aa"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PAPER: "--paper",
    WASH: "--wash",
    GOOD: "--good",
    BAD: "--bad",
    ODD: "--odd",
    **{color: f"--run-{index}" for index, color in enumerate(RUN_COLORS)},
}
_THEMED = re.compile(rf'(fill|stroke)="({"|".join(VARIABLES)})"')
_NARROWEST = 0.85


class RunColors:
    """One colour a run, the same everywhere; runs that are not drawn in curves share a grey."""

    def __init__(self, drawn: Sequence[str]) -> None:
        self._place = {run: index for index, run in enumerate(drawn)}

    def name(self, run: str) -> str:
        """CSS class of the run's dot."""
        return f"c{self._place[run]}" if run in self._place else "cx"

    def color(self, run: str) -> str:
        """The run's colour in charts."""
        return RUN_COLORS[self._place[run]] if run in self._place else WASH

    def scale(self, runs: Sequence[str]) -> alt.Scale:
        """Colour scale of some runs."""
        return alt.Scale(domain=list(runs), range=[self.color(run) for run in runs])


def run_legend(columns: int = 2) -> alt.Legend:
    """Names of the runs above a chart, in full colour even where the first layer is a pale band."""
    return alt.Legend(columns=columns, labelLimit=150, columnPadding=22, symbolOpacity=1, symbolType="circle")


# Quiet axes, no frame, one type size.
CHART_CONFIG: dict[str, Any] = {
    "font": MEASURED_FONT,
    "background": "transparent",
    "padding": 4,
    "view": {"stroke": None, "continuousWidth": 300, "continuousHeight": 300},
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "gridColor": RULE,
        "domain": False,
        "ticks": False,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelPadding": 6,
        "labelLimit": 150,
        "labelFlush": False,
    },
    "axisQuantitative": {"labelOverlap": "greedy", "labelSeparation": 8},
    "header": {"labelColor": INK, "labelFontSize": 12, "labelFontWeight": 600, "title": None},
    "title": {"color": INK, "fontSize": 11, "fontWeight": 600, "anchor": "start", "offset": 4},
    "legend": {"labelColor": MUTED, "title": None, "orient": "top", "labelFontSize": 11, "symbolStrokeWidth": 2},
    "text": {"fontSize": 11, "color": INK},
}


def themed(svg: str, key: str) -> str:
    """Make a chart's colours follow the page, its size the column it stands in, and its ids begin with a key.

    Charts share one page: without a key of its own a chart would be clipped by another one's frame. A narrow
    column shrinks it by 15 % at most, so that its text stays readable; beyond that the figure scrolls.
    """
    svg = re.sub(r'\bid="', f'id="{key}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{key}-", svg)
    # The page sets the font; frames without a line draw nothing.
    svg = re.sub(r' font-family="[^"]*"', "", svg)
    svg = re.sub(r'<path class="(?:background|foreground)"[^>]*display="none"/>', "", svg)
    svg = _THEMED.sub(lambda match: f'{match[1]}="var({VARIABLES[match[2]]})"', svg)
    size = re.search(r'<svg[^>]*? width="([\d.]+)" height="([\d.]+)"', svg)
    if size is not None:
        style = f' style="max-width:{size[1]}px;min-width:{float(size[1]) * _NARROWEST:.0f}px"'
        svg = svg.replace(size[0], re.sub(r' width="[\d.]+" height="[\d.]+"', style, size[0]), 1)
    return svg

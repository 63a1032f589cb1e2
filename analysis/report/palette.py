"""Colours and type of the charts; each colour has a CSS variable, so that the page can turn dark."""

from __future__ import annotations

__all__ = ["RUN_COLORS", "chart_config", "run_scale", "themed"]

import re
from collections.abc import Sequence
from typing import Any

import altair as alt

INK, MUTED, RULE, PAPER, WASH = "#1c1f23", "#667078", "#e2e3dd", "#fefefd", "#b9bdb6"
RUN_COLORS = ("#7d8799", "#2f7fb8", "#d55f2a", "#2b8a66", "#8459b8", "#a9861a", "#b5487a", "#4b5563")
GOOD, BAD = "#2b8a67", "#c2413b"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PAPER: "--paper",
    WASH: "--wash",
    GOOD: "--good",
    BAD: "--bad",
    **{color: f"--run-{index}" for index, color in enumerate(RUN_COLORS)},
}
FONT = "Inter, ui-sans-serif, system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def run_scale(runs: Sequence[str]) -> alt.Scale:
    """One colour a run, the same in every chart; after eight runs the colours repeat."""
    return alt.Scale(domain=list(runs), range=[RUN_COLORS[i % len(RUN_COLORS)] for i in range(len(runs))])


def chart_config(chart: Any) -> Any:
    """Quiet axes, no frame, one type size."""
    axis = {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "gridColor": RULE,
        "domain": False,
        "ticks": False,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelPadding": 6,
        "labelLimit": 190,
        "labelFlush": False,
    }
    head = {"labelColor": INK, "labelFontSize": 12, "labelFontWeight": 600, "title": None}
    return (
        chart.configure(font=FONT, background="transparent", padding={"left": 18, "top": 4, "right": 8, "bottom": 4})
        .configure_view(stroke=None)
        .configure_axis(**axis)
        .configure_header(**head)
        .configure_legend(labelColor=MUTED, title=None, orient="top", labelFontSize=11, symbolStrokeWidth=0)
        .configure_text(fontSize=11, color=INK)
    )


def themed(svg: str) -> str:
    """Make a chart's colours follow the page, and its size the column it stands in."""
    for color, name in VARIABLES.items():
        svg = re.sub(f'(fill|stroke)="{color}"', rf'\1="var({name})"', svg)
    size = re.search(r'<svg[^>]*? width="([\d.]+)" height="([\d.]+)"', svg)
    if size is not None:
        # The width is a limit, not a demand: a phone is narrower.
        head = size[0]
        svg = svg.replace(head, re.sub(r' width="[\d.]+" height="[\d.]+"', f' style="max-width:{size[1]}px"', head), 1)
    return svg

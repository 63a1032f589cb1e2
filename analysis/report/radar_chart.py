"""The radar that papers draw of a leaderboard."""

from __future__ import annotations

__all__ = ["radar_chart"]

import math
from typing import Any, Literal

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis.leaderboard.boards import Board
from vlm_backbones.analysis.leaderboard.standing import Standing
from vlm_backbones.analysis.leaderboard.words import number
from vlm_backbones.analysis.report.palette import MUTED, RULE, RunColors

Floats = NDArray[np.float64]

_CENTRE = 0.25  # radius of the lowest row: at 0 all of them would meet in one point
_ROWS = 8


def radar_chart(standing: Standing, board: Board, colors: RunColors) -> Any:
    """The first eight rows; each axis runs from the lowest of them (inner ring) to the highest (rim)."""
    shown = board.rows[:_ROWS]
    names = [standing.labels[row] for row in shown]
    angle = 2 * math.pi * np.arange(len(board.columns)) / len(board.columns)
    corners = [
        _point(name, r, a) | {"order": k, "label": f"{name}, {title}: {number(value)}"}
        for name, row, line in zip(names, shown, _radius(standing, board, shown), strict=True)
        for k, (r, a, title, value) in enumerate(_closed(standing, board, row, line, angle))
    ]
    rings = [
        _point(f"{r}", r, a) | {"order": k}
        for r in (_CENTRE, (1 + _CENTRE) / 2, 1.0)
        for k, a in enumerate([*angle, angle[0]])
    ]
    x = alt.X("x:Q", scale=alt.Scale(domain=[-1.95, 1.95]), axis=None)
    y = alt.Y("y:Q", scale=alt.Scale(domain=[-1.22, 1.22]), axis=None)
    web = alt.Chart(pl.DataFrame(rings)).mark_line(color=RULE, strokeWidth=1)
    legend = alt.Legend(orient="bottom", columns=2, columnPadding=44, labelLimit=220, symbolType="circle")
    base = alt.Chart(pl.DataFrame(corners)).encode(
        x=x, y=y, color=alt.Color("row:N", scale=colors.scale(names), legend=legend)
    )
    lines = base.mark_line(strokeWidth=1.8).encode(order="order:Q")
    dots = base.mark_circle(size=34, opacity=1).encode(description="label:N")
    layers = [web.encode(x=x, y=y, order="order:Q", detail="row:N"), *_axis_titles(standing, board, angle, x, y)]
    return alt.layer(*layers, lines, dots).properties(
        width=536, height=336, padding={"left": 4, "top": 4, "right": 4, "bottom": 4}
    )


def _radius(standing: Standing, board: Board, shown: list[int]) -> Floats:
    """Distance of each row from the centre on each axis: (rows, benchmarks); the rim where all are equal."""
    values = standing.oriented[np.ix_(shown, board.columns)]
    low, high = values.min(axis=0), values.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    return np.asarray(_CENTRE + (1 - _CENTRE) * np.where(high > low, (values - low) / spread, 1.0), dtype=float)


def _closed(standing: Standing, board: Board, row: int, line: Floats, angle: Floats) -> Any:
    """Radius, angle, benchmark and value of each corner, the first once more at the end."""
    titles = [standing.benchmarks[j].name for j in board.columns]
    corners = list(zip(line, angle, titles, standing.value[row, board.columns], strict=True))
    return [*corners, corners[0]]


def _point(row: str, radius: float, angle: float) -> dict[str, Any]:
    return {"row": row, "x": radius * math.sin(angle), "y": radius * math.cos(angle)}


def _axis_titles(standing: Standing, board: Board, angle: Floats, x: alt.X, y: alt.Y) -> list[Any]:
    """The benchmarks' names around the radar, each set outwards from its axis."""
    titles = [_point(standing.benchmarks[j].name, 1.08, a) for j, a in zip(board.columns, angle, strict=True)]
    sides: dict[Literal["left", "center", "right"], list[dict[str, Any]]] = {"right": [], "left": [], "center": []}
    for title in titles:
        sides["center" if abs(title["x"]) <= 0.2 else "left" if title["x"] > 0 else "right"].append(title)
    return [
        alt.Chart(pl.DataFrame(points))
        .mark_text(align=align, color=MUTED, fontSize=11, limit=140)
        .encode(x=x, y=y, text="row:N")
        for align, points in sides.items()
        if points
    ]

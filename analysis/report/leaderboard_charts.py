"""The pictures of the leaderboard: means with intervals, and every benchmark as dots with intervals."""

from __future__ import annotations

__all__ = ["PADDING", "means_chart", "scores_chart"]

import math
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis.leaderboard.boards import Board
from vlm_backbones.analysis.leaderboard.standing import Benchmark, Standing
from vlm_backbones.analysis.leaderboard.words import number, ranged
from vlm_backbones.analysis.report.palette import INK, PAPER, RULE, RunColors

Floats = NDArray[np.float64]

# The page's font may be wider than the one that the labels were measured with.
PADDING = {"left": 34, "top": 4, "right": 12, "bottom": 4}
_ROWS = 16
_LABEL = 210


def means_chart(standing: Standing, board: Board, colors: RunColors) -> Any:
    """Mean rank and mean score of each row, with 95 % intervals; the best row on top."""
    names = [standing.labels[row] for row in board.rows]
    axis = alt.Axis(grid=False, labelColor=INK, labelLimit=_LABEL)
    panels = [_means(names, colors, axis, "mean rank, 1 is best", board.mean_rank, board.rank_low, board.rank_high)]
    if board.scored:
        score = board.mean_score, board.score_low, board.score_high
        panels.append(_means(names, colors, None, "mean score, of 100", *score))
    return alt.hconcat(*panels, spacing=24).properties(padding=PADDING)


def _means(
    names: list[str], colors: RunColors, rows: alt.Axis | None, title: str, value: Floats, low: Floats, high: Floats
) -> Any:
    said = [
        f"{n}: {title} {number(v, 2)} {ranged(a, b, 2)}" for n, v, a, b in zip(names, value, low, high, strict=True)
    ]
    data = pl.DataFrame({"row": names, "value": value, "low": low, "high": high, "label": said})
    data = data.with_columns(pl.col("low", "high").fill_nan(pl.col("value")))
    base = alt.Chart(data).encode(
        y=alt.Y("row:N", sort=names, title=None, axis=rows),
        color=alt.Color("row:N", scale=colors.scale(names), legend=None),
        description="label:N",
    )
    axis = alt.Axis(tickCount=4, orient="top")
    rule = base.mark_rule(strokeWidth=2.5, strokeCap="round").encode(x=_x("low", title, axis), x2="high:Q")
    dot = base.mark_circle(size=85, opacity=1, stroke=PAPER, strokeWidth=1).encode(x=_x("value", title, axis))
    return alt.layer(rule, dot).properties(width=150, height=alt.Step(26))


def _x(field: str, title: str | None, axis: alt.Axis) -> alt.X:
    return alt.X(f"{field}:Q", scale=alt.Scale(zero=False), title=title, axis=axis)


def scores_chart(standing: Standing, board: Board, colors: RunColors) -> Any:
    """Each benchmark on a scale of its own: a dot and its interval a row, a ring where no interval is known.

    The first 16 rows are drawn.
    """
    names = [standing.labels[row] for row in board.rows[:_ROWS]]
    titles = [_facet_title(standing.benchmarks[j]) for j in board.columns]
    data = [
        _cell(standing, row, j) | {"benchmark": title}
        for j, title in zip(board.columns, titles, strict=True)
        for row in board.rows[:_ROWS]
    ]
    base = alt.Chart(pl.DataFrame(data)).encode(
        y=alt.Y(
            "row:N", sort=names, title=None, axis=alt.Axis(labelColor=INK, gridColor=RULE, grid=True, labelLimit=_LABEL)
        ),
        color=alt.Color("row:N", scale=colors.scale(names), legend=None),
        description="label:N",
    )
    axis = alt.Axis(tickCount=3, grid=False, format="~f")
    known, unknown = base.transform_filter("datum.known"), base.transform_filter("!datum.known")
    rule = known.mark_rule(strokeWidth=2.2, strokeCap="round").encode(x=_x("low", None, axis), x2="high:Q")
    dot = known.mark_circle(size=60, opacity=1, stroke=PAPER, strokeWidth=1).encode(x=_x("value", None, axis))
    ring = unknown.mark_point(size=46, opacity=1, strokeWidth=2, fill=PAPER).encode(x=_x("value", None, axis))
    head = alt.Header(orient="top", labelAnchor="start", labelPadding=3)
    facet = alt.Facet("benchmark:N", sort=titles, header=head, title=None)
    layers = alt.layer(rule, dot, ring).properties(width=200, height=alt.Step(17))
    # Flush bounds keep the columns aligned whatever the width of the tick labels.
    grid = layers.facet(facet=facet, columns=4, spacing={"row": 46, "column": 26}, bounds="flush")
    return grid.resolve_scale(x="independent").properties(padding=PADDING)


def _facet_title(benchmark: Benchmark) -> str:
    unit = "" if benchmark.unit == "percent" else ", points"
    return benchmark.name + unit + ("" if benchmark.higher_is_better else " (lower is better)")


def _cell(standing: Standing, row: int, column: int) -> dict[str, Any]:
    cell, label = standing.cells[row, column], standing.labels[row]
    known = not math.isnan(cell.ci_low)
    n = f"n = {cell.n}" if cell.n else "n unknown"
    name = standing.benchmarks[column].name
    return {
        "row": label,
        "value": cell.value,
        "low": cell.ci_low if known else cell.value,
        "high": cell.ci_high if known else cell.value,
        "known": known,
        "label": f"{label}, {name}: {number(cell.value)} {ranged(cell.ci_low, cell.ci_high)}, {n}",
    }

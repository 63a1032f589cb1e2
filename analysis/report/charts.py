"""The pictures of the report, each an Altair chart over one table."""

from __future__ import annotations

__all__ = ["agreement_chart", "flip_chart", "ladder_chart", "reliability_chart", "score_chart", "solved_chart"]

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from vlm_backbones.analysis.report.palette import BAD, GOOD, INK, MUTED, PAPER, RULE, WASH, run_scale

_PERCENT = alt.Axis(format=".0%", tickCount=5)


def score_chart(headline: pl.DataFrame, blind: pl.DataFrame, runs: Sequence[str], tasks: Sequence[str]) -> Any:
    """Dot and interval of each run's headline metric; the open tick is the same run seeing another question's image."""
    label = (
        pl.col("run") + ", " + pl.col("task") + ": " + (100 * pl.col("value")).round(1).cast(pl.String) + " % ["
        + (100 * pl.col("ci_low")).round(1).cast(pl.String) + ", " + (100 * pl.col("ci_high")).round(1).cast(pl.String)
        + "], n = " + pl.col("n").cast(pl.String)
    )  # fmt: skip
    data = pl.concat(
        [headline.with_columns(kind=pl.lit("scores")), blind.with_columns(kind=pl.lit("blind baseline"))],
        how="diagonal",
    ).with_columns(label=label)
    base = alt.Chart(data)
    y = alt.Y("run:N", sort=list(runs), title=None, axis=alt.Axis(grid=False, labelColor=INK))
    color = alt.Color("run:N", scale=run_scale(runs), legend=None)
    low = min([0.0, *data["ci_low"].drop_nans().to_list()])
    scale = alt.Scale(domain=[low, max([1.0, *data["ci_high"].drop_nans().to_list()])])
    clean = base.transform_filter("datum.kind == 'scores'")
    rule = clean.mark_rule(strokeWidth=2.5, strokeCap="round").encode(
        x=alt.X("ci_low:Q", scale=scale, axis=_PERCENT, title=None), x2="ci_high:Q", y=y, color=color,
        description="label:N",
    )  # fmt: skip
    dot = clean.mark_circle(size=80, opacity=1, stroke=PAPER, strokeWidth=1).encode(
        x="value:Q", y=y, color=color, description="label:N"
    )
    text = clean.mark_text(dy=-10, fontSize=10, color=MUTED).encode(
        x="value:Q", y=y, text=alt.Text("value:Q", format=".1%")
    )
    swap = (
        base.transform_filter("datum.kind != 'scores'")
        .mark_tick(thickness=2, size=14, color=WASH)
        .encode(x="value:Q", y=y, description="label:N")
    )
    layers = alt.layer(rule, swap, dot, text).properties(width=300, height=alt.Step(30))
    return layers.facet(row=alt.Row("task:N", sort=list(tasks), header=alt.Header(orient="top", labelAnchor="start")))


def agreement_chart(agreement: pl.DataFrame, runs: Sequence[str]) -> Any:
    """Phi of every two runs on one task, both halves of the matrix."""
    both = [
        {"a": a, "b": b, "phi": phi, "low": low, "high": high, "n": n}
        for x, y, phi, low, high, n in agreement.select("run_a", "run_b", "phi", "phi_low", "phi_high", "n").iter_rows()
        for a, b in ((x, y), (y, x))
    ]
    numbers = [pl.col(name).round(3) for name in ("phi", "low", "high")]
    label = pl.format("{} and {}: phi {} [{}, {}], n = {}", "a", "b", *numbers, "n")
    data = pl.DataFrame(both, strict=False).with_columns(label=label)
    side = 54 if len(runs) < 7 else max(14, 380 // len(runs))
    order = list(runs)
    base = alt.Chart(data).encode(
        x=alt.X("b:N", sort=order, title=None, axis=alt.Axis(labelAngle=-35, labelColor=INK)),
        y=alt.Y("a:N", sort=order, title=None, axis=alt.Axis(labelColor=INK)),
    )
    scale = alt.Scale(domain=[-1, 0, 1], range=["#c2413c", "#f3f1ea", "#2f6f9f"])
    cells = base.mark_rect(cornerRadius=3, stroke=PAPER, strokeWidth=2).encode(
        color=alt.Color("phi:Q", scale=scale, legend=None), description="label:N"
    )
    text = base.mark_text(fontSize=12).encode(
        text=alt.Text("phi:Q", format=".2f"),
        color=alt.condition("abs(datum.phi) > 0.55", alt.value("#ffffff"), alt.value("#15181b")),
    )
    layers = [cells, text] if len(runs) <= 12 else [cells]
    return alt.layer(*layers).properties(width=alt.Step(side), height=alt.Step(min(side, 40)))


def flip_chart(agreement: pl.DataFrame) -> Any:
    """Share of questions lost (left) and won (right) by going from the first run to the second."""
    pair = pl.col("run_a") + " → " + pl.col("run_b")
    lost = agreement.select(
        pair.alias("pair"), (-pl.col("negative_flip_rate")).alias("share"), "n", kind=pl.lit("lost")
    )
    won = agreement.select(pair.alias("pair"), pl.col("positive_flip_rate").alias("share"), "n", kind=pl.lit("won"))
    data = pl.concat([lost, won]).with_columns(
        label=pl.format("{}: {} {} % of {} questions", "pair", "kind", (100 * pl.col("share").abs()).round(1), "n"),
        shown=(100 * pl.col("share").abs()).round(1).cast(pl.String),
    )
    limit = max(0.02, float(data["share"].abs().fill_nan(0).max() or 0.0)) * 1.25  # type: ignore[arg-type]
    base = alt.Chart(data).encode(
        y=alt.Y("pair:N", sort=None, title=None, axis=alt.Axis(labelColor=INK, grid=False, labelLimit=260)),
        x=alt.X("share:Q", scale=alt.Scale(domain=[-limit, limit]), title=None,
                axis=alt.Axis(labelExpr="format(abs(datum.value), '.0%')", tickCount=5)),
    )  # fmt: skip
    scale = alt.Scale(domain=["lost", "won"], range=[BAD, GOOD])
    bars = base.mark_bar(height=13, cornerRadius=2).encode(
        color=alt.Color("kind:N", scale=scale, legend=alt.Legend(symbolType="square")), description="label:N"
    )
    left = base.transform_filter("datum.share <= 0 && datum.kind == 'lost'").mark_text(
        align="right", dx=-4, fontSize=10
    )
    right = base.transform_filter("datum.kind == 'won'").mark_text(align="left", dx=4, fontSize=10)
    return alt.layer(bars, *(mark.encode(text="shown:N") for mark in (left, right))).properties(
        width=240, height=alt.Step(26)
    )


def solved_chart(solved: pl.DataFrame, runs: Sequence[str], sets: int = 12) -> Any:
    """UpSet plot: how many questions exactly these runs solved."""
    top = solved.head(sets).with_row_index("order")
    total = int(solved["count"].sum())
    label = pl.format("{} of {} questions solved by exactly: {}", "count", pl.lit(total), "runs_right")
    top = top.with_columns(label=label)
    order = alt.Y("order:O", axis=None)
    dots = pl.DataFrame(
        [
            {"order": i, "run": run, "hit": run in names.split(" + ")}
            for i, names in enumerate(top["runs_right"])
            for run in runs
        ]
    )
    x = alt.X(
        "run:N", sort=list(runs), title=None, axis=alt.Axis(orient="top", labelAngle=-35, labelColor=INK, grid=False)
    )
    matrix = alt.Chart(dots).mark_circle(size=90, opacity=1).encode(
        x=x, y=order,
        color=alt.condition("datum.hit", alt.Color("run:N", scale=run_scale(runs), legend=None), alt.value(RULE)),
    ).properties(width=alt.Step(26), height=alt.Step(20))  # fmt: skip
    bars = alt.Chart(top).encode(y=order, x=alt.X("count:Q", axis=None))
    shown = bars.mark_bar(height=12, cornerRadius=2, color=WASH).encode(description="label:N")
    text = bars.mark_text(align="left", dx=4, fontSize=10).encode(text="count:Q")
    return alt.hconcat(matrix, alt.layer(shown, text).properties(width=210, height=alt.Step(20)), spacing=8)


def ladder_chart(coordinates: pl.DataFrame, runs: Sequence[str]) -> Any:
    """How far up the ladder each run's answers get."""
    rungs = {
        "answered": "answered", "parsed": "parsed", "in_range": "on the globe", "within_1000_km": "1000 km",
        "within_250_km": "250 km", "within_100_km": "100 km", "within_50_km": "50 km",
    }  # fmt: skip
    data = coordinates.unpivot(list(rungs), index=["run", "n"], variable_name="rung", value_name="share")
    data = data.with_columns(pl.col("rung").replace_strict(rungs)).with_columns(
        label=pl.format("{}, {}: {} % of {}", "run", "rung", (100 * pl.col("share")).round(1), "n")
    )
    base = alt.Chart(data).encode(
        x=alt.X("rung:N", sort=list(rungs.values()), title=None, axis=alt.Axis(labelAngle=-30, grid=False)),
        y=alt.Y("share:Q", scale=alt.Scale(domain=[0, 1]), axis=_PERCENT, title=None),
        color=alt.Color("run:N", scale=run_scale(runs), legend=alt.Legend(columns=3)),
    )
    line = base.mark_line(strokeWidth=2)
    return alt.layer(line, base.mark_circle(size=60, opacity=1).encode(description="label:N")).properties(
        width=380, height=220
    )


def reliability_chart(reliability: pl.DataFrame, runs: Sequence[str]) -> Any:
    """Accuracy against confidence in 15 bins of one task; the area of a dot is its number of answers."""
    numbers = [pl.col(name).round(3) for name in ("confidence", "accuracy")]
    label = pl.format("{}: confidence {}, accuracy {}, n = {}", "run", *numbers, "n")
    data = reliability.filter(pl.col("n") > 0).with_columns(label=label)
    unit = alt.Scale(domain=[0, 1])
    present = [run for run in runs if run in set(data["run"])]
    axis = alt.Axis(values=[0, 0.5, 1], format="~g")
    base = alt.Chart(data)
    x = alt.X("confidence:Q", scale=unit, title="confidence", axis=axis)
    y = alt.Y("accuracy:Q", scale=unit, title="accuracy", axis=axis)
    diagonal = base.transform_calculate(zero="0", one="1").mark_rule(color=WASH, strokeDash=[3, 3]).encode(
        x=alt.X("zero:Q", scale=unit, title="confidence", axis=axis), x2="one:Q",
        y=alt.Y("zero:Q", scale=unit, title="accuracy", axis=axis), y2="one:Q",
    )  # fmt: skip
    color = alt.Color("run:N", scale=run_scale(runs), legend=None)
    line = base.mark_line(strokeWidth=1.2, opacity=0.6).encode(x=x, y=y, color=color)
    size = alt.Size("n:Q", scale=alt.Scale(range=[12, 190]), legend=None)
    dots = base.mark_circle(opacity=0.95).encode(x=x, y=y, size=size, color=color, description="label:N")
    return alt.layer(diagonal, line, dots).properties(width=118, height=118).facet(
        facet=alt.Facet("run:N", sort=present, header=alt.Header(labelFontSize=11)), columns=3
    )  # fmt: skip

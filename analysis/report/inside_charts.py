"""Charts of the hidden states: heat maps of similar layers, probe curves, stability, answers that flip."""

from __future__ import annotations

__all__ = ["cka_chart", "flip_rate_chart", "probe_chart", "stability_chart"]

import math
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import polars as pl

from vlm_backbones.analysis.bootstrap import wilson
from vlm_backbones.analysis.report.labels import ranged
from vlm_backbones.analysis.report.palette import INK, MUTED, PAPER, RunColors, run_legend

_CONDITIONS = ["jpeg40", "noise05", "shift4", "paraphrase", "swap"]
_CONTROLS = {
    "permuted": "labels shuffled",
    "random_weights": "random weights",
    "text_only": "question text alone",
    "control": "control task",
}
_TOGETHER = "all runs"
_MOST_LAYERS = 16
_LOWEST = -0.25


def _layer_axis(layers: Iterable[Any], title: str | None = "layer") -> alt.Axis:
    known = sorted(set(layers))
    return alt.Axis(values=known[:: max(1, len(known) // 6)], format="d", title=title, grid=False)


def cka_chart(similarity: pl.DataFrame, runs: Sequence[str]) -> Any:
    """Heat maps of CKA, a panel for every two runs: rows of the matrix are layers of one, columns of the other."""
    layers = sorted(set(similarity["layer_a"]) | set(similarity["layer_b"]))
    kept = layers[:: math.ceil(len(layers) / _MOST_LAYERS)]
    # The table holds each pair of runs once; the picture shows both sides of the diagonal.
    own = similarity.filter(
        pl.col("run_a").is_in(list(runs)), pl.col("run_b").is_in(list(runs)),
        pl.col("layer_a").is_in(kept), pl.col("layer_b").is_in(kept),
    )  # fmt: skip
    turned = own.rename({"run_a": "run_b", "run_b": "run_a", "layer_a": "layer_b", "layer_b": "layer_a"})
    keys = ["run_a", "layer_a", "run_b", "layer_b"]
    data = pl.concat([own, turned.select(own.columns)]).unique(keys, maintain_order=True)
    label = pl.format("{} layer {}, {} layer {}: CKA {}, n = {}", *keys, pl.col("cka_debiased").round(2), "n")
    cell = max(6, min(34, 110 // len(kept)))
    side = len(kept) * cell
    axis = alt.Axis(title="layer", labelAngle=0, labelOverlap=True, labelPadding=3, grid=False)
    scale = alt.Scale(domain=[0, 1], range=["#f6f4ee", "#8fb7d4", "#14507f"], interpolate="lab", clamp=True)
    legend = alt.Legend(orient="right", gradientLength=80, gradientThickness=10, values=[0, 0.5, 1], format="~g")
    cells = alt.Chart(data.with_columns(label=label)).mark_rect().encode(
        x=alt.X("layer_b:O", axis=axis), y=alt.Y("layer_a:O", axis=axis, sort="descending"),
        color=alt.Color("cka_debiased:Q", scale=scale, legend=legend), description="label:N",
    )  # fmt: skip
    head = alt.Header(labelFontSize=11, labelLimit=side + 10, labelPadding=4)
    row = alt.Header(labelFontSize=11, labelLimit=side + 10, labelPadding=4, labelAngle=-90, labelAlign="center")
    return cells.properties(width=side, height=side).facet(
        column=alt.Column("run_b:N", sort=list(runs), header=head),
        row=alt.Row("run_a:N", sort=list(runs), header=row), spacing=8,
    )  # fmt: skip


def probe_chart(probes: pl.DataFrame, runs: Sequence[str], colors: RunColors) -> Any:
    """Probe scores over the layers: a row a target, all runs together first, then each run with its controls."""
    own = probes.filter(pl.col("run").is_in(list(runs))).with_columns(control=pl.col("score") - pl.col("selectivity"))
    present = [run for run in runs if run in set(own["run"])]
    read = ranged("score", "ci_low", "ci_high", digits=3)
    label = pl.format("{}, {}, layer {}: {}, n = {}", "run", "target", "layer", read, "n")
    score = own.select("run", "target", "layer", "ci_low", "ci_high", label=label, value="score", line=pl.lit("probe"))
    controls = own.unpivot(
        list(_CONTROLS), index=["run", "target", "layer"], variable_name="line", value_name="value"
    ).with_columns(pl.col("line").replace_strict(_CONTROLS), panel=pl.col("run"))
    controls = controls.filter(pl.col("value").is_not_nan())
    panels = [_TOGETHER, *present] if len(present) > 1 else present
    parts = [score.with_columns(panel=pl.col("run")), controls]
    if len(present) > 1:
        parts.insert(0, score.with_columns(panel=pl.lit(_TOGETHER)))
    data = pl.concat(parts, how="diagonal")
    base = alt.Chart(data)
    x = alt.X("layer:Q", axis=_layer_axis(data["layer"]), scale=alt.Scale(nice=False, padding=4))
    low = min([0.0, *data["ci_low"].drop_nulls().drop_nans().to_list()])
    scale = alt.Scale(domain=[max(low, _LOWEST), 1], clamp=True, nice=False)
    axis = alt.Axis(values=[0, 0.5, 1], format="~g")
    y = alt.Y("value:Q", title=None, axis=axis, scale=scale)
    color = alt.Color("run:N", scale=colors.scale(present), legend=None)
    probe = base.transform_filter("datum.line == 'probe'")
    band = probe.mark_area(opacity=0.18).encode(
        x=x, y=alt.Y("ci_low:Q", title=None, axis=axis, scale=scale), y2="ci_high:Q", color=color
    )
    line = probe.mark_line(strokeWidth=2).encode(x=x, y=y, color=color)
    dots = probe.mark_circle(size=22, opacity=1).encode(x=x, y=y, color=color, description="label:N")
    dash = alt.StrokeDash(
        "line:N", scale=alt.Scale(domain=list(_CONTROLS.values()), range=[[1, 3], [6, 3], [1, 0], [6, 2, 1, 2]]),
        legend=alt.Legend(symbolType="stroke", symbolStrokeColor=MUTED, columns=4, symbolSize=260, columnPadding=26),
    )  # fmt: skip
    control = base.transform_filter("datum.line != 'probe'").mark_line(color=MUTED, strokeWidth=1.3, aria=False).encode(
        x=x, y=y, strokeDash=dash
    )  # fmt: skip
    head = alt.Header(labelFontSize=11, labelLimit=150, labelPadding=4)
    row = alt.Header(labelFontSize=11, labelAngle=0, labelAlign="left", labelLimit=110, labelPadding=6)
    return alt.layer(control, band, line, dots).properties(width=160, height=76).facet(
        column=alt.Column("panel:N", sort=panels, header=head), row=alt.Row("target:N", header=row), spacing=10
    )  # fmt: skip


def stability_chart(stability: pl.DataFrame, runs: Sequence[str], colors: RunColors) -> Any:
    """Stability over the layers, a panel a condition."""
    data = stability.filter(pl.col("run").is_in(list(runs)))
    present = [run for run in runs if run in set(data["run"])]
    kept = ranged("stability", "ci_low", "ci_high", digits=3)
    label = pl.format("{}, {}, layer {}: {}, n = {}", "run", "condition", "layer", kept, "n")
    data = data.with_columns(label=label)
    base = alt.Chart(data)
    x = alt.X("layer:Q", axis=_layer_axis(data["layer"]), scale=alt.Scale(nice=False, padding=4))
    low = min([0.0, *data["ci_low"].drop_nulls().drop_nans().to_list()])
    scale = alt.Scale(domain=[max(low, _LOWEST), 1], clamp=True, nice=False)
    axis = alt.Axis(tickCount=5, format="~g")
    color = alt.Color("run:N", scale=colors.scale(present), legend=run_legend(columns=4))
    band = base.mark_area(opacity=0.18).encode(
        x=x, y=alt.Y("ci_low:Q", scale=scale, title=None, axis=axis), y2="ci_high:Q", color=color
    )
    y = alt.Y("stability:Q", scale=scale, title=None, axis=axis)
    line = base.mark_line(strokeWidth=2).encode(x=x, y=y, color=color)
    dots = base.mark_circle(size=22, opacity=1).encode(x=x, y=y, color=color, description="label:N")
    header = alt.Header(labelFontSize=11, labelPadding=4)
    layers = alt.layer(band, line, dots).properties(width=112, height=110)
    return layers.facet(column=alt.Column("condition:N", sort=_conditions(data), header=header), spacing=12)


def flip_rate_chart(rates: pl.DataFrame, runs: Sequence[str], colors: RunColors) -> Any:
    """Share of answers that change, by condition and run."""
    ends = [wilson(rate * n, n) for rate, n in rates.select("answer_flip_rate", "n").iter_rows()]
    data = rates.with_columns(
        low=pl.Series([end[0] for end in ends], dtype=pl.Float64),
        high=pl.Series([end[1] for end in ends], dtype=pl.Float64),
    )
    present = [run for run in runs if run in set(data["run"])]
    changed = ranged("answer_flip_rate", "low", "high", digits=1, percent=True)
    data = data.with_columns(
        label=pl.format("{}, {}: {} of the answers change, n = {}", "run", "condition", changed, "n")
    )
    base = alt.Chart(data)
    y = alt.Y("run:N", sort=present, title=None, axis=alt.Axis(grid=False, labelColor=INK))
    color = alt.Color("run:N", scale=colors.scale(present), legend=None)
    scale = alt.Scale(domain=[0, 1])
    axis = alt.Axis(format=".0%", values=[0, 0.5, 1], labelFlush=True)
    rule = base.mark_rule(strokeWidth=2.5, strokeCap="round").encode(
        x=alt.X("low:Q", scale=scale, axis=axis, title=None), x2="high:Q", y=y, color=color
    )  # fmt: skip
    dot = base.mark_circle(size=70, opacity=1, stroke=PAPER, strokeWidth=1).encode(
        x="answer_flip_rate:Q", y=y, color=color, description="label:N"
    )
    layers = alt.layer(rule, dot).properties(width=112, height=alt.Step(20))
    header = alt.Header(labelFontSize=11, labelPadding=4)
    return layers.facet(column=alt.Column("condition:N", sort=_conditions(data), header=header), spacing=24)


def _conditions(data: pl.DataFrame) -> list[str]:
    present = set(data["condition"])
    return [name for name in _CONDITIONS if name in present] + sorted(present - set(_CONDITIONS))

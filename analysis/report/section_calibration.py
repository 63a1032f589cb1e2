"""Pictures of calibration: reliability diagrams and risk-coverage curves, by question type."""

from __future__ import annotations

__all__ = ["plan_calibration", "reliability_chart", "risk_chart"]

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from vlm_backbones.analysis.report.curves import calibration_curves
from vlm_backbones.analysis.report.labels import ranged
from vlm_backbones.analysis.report.palette import PAPER, WASH, RunColors, run_legend
from vlm_backbones.analysis.report.view import Plan, View, sizes

_KIND = {
    "option": "the probability of the option that was answered",
    "sequence": "the probability of the whole answer",
    "exact": "the probability of the whole answer; right is here an answer in its target's very words",
}


def plan_calibration(view: View, task: str) -> tuple[list[Plan], list[str]]:
    """Two pictures for all questions and for each question type, and the types that are too rare or too many."""
    part = view.samples(task)
    logged = set(part["run"].unique())
    runs = [run for run in view.drawn if run in logged]
    if not runs:
        return [], []
    curves = calibration_curves(part, runs, view.seed)
    plans = []
    for number, question_type in enumerate(curves.question_types):
        bins = curves.reliability.filter(question_type=question_type)
        risk = curves.risk.filter(question_type=question_type)
        present = [run for run in runs if run in set(risk["run"])]
        n, choice = sizes(risk["n"].unique()), (task, question_type)
        tail = view.too_many(view.drawn)
        about = (
            "Dots on the diagonal are calibrated, below it overconfident; their area is the number of answers. Grey: "
            "where 95 % of the dots of a perfectly calibrated model would lie. Confidence is "
            f"{_KIND[curves.kind]}; {n}.{tail}"
        )
        chart = reliability_chart(bins, present, view.colors)
        title = "Does 80 % confidence mean 80 % right?"
        plans.append(Plan("calibration", f"reliability_{task}_{number}", title, about, chart, bins, choice))
        about = (
            "Share of wrong answers if only the most confident ones are kept: a useful confidence starts low and rises "
            f"to the right. Bands: 95 %, questions of one image drawn together; {n}.{tail}"
        )
        chart = risk_chart(risk, present, view.colors)
        title = "Can the confidence choose what to trust?"
        plans.append(Plan("calibration", f"risk_coverage_{task}_{number}", title, about, chart, risk, choice))
    return plans, curves.left_out


def reliability_chart(bins: pl.DataFrame, runs: Sequence[str], colors: RunColors) -> Any:
    """Accuracy against confidence in 15 bins, a panel a run, over the band of perfect calibration."""
    numbers = [pl.col(name).round(3) for name in ("confidence", "accuracy", "band_low", "band_high")]
    label = pl.format("{}: confidence {}, accuracy {}, by chance {} to {}, n = {}", "run", *numbers, "n")
    data = bins.filter(pl.col("n") > 0).with_columns(label=label)
    unit = alt.Scale(domain=[0, 1])
    axis = alt.Axis(values=[0, 0.5, 1], format=".0%")
    across = alt.Axis(values=[0, 0.5, 1], format=".0%", labelFlush=True)
    base = alt.Chart(data)
    x = alt.X("confidence:Q", scale=unit, title="confidence", axis=across)
    y = alt.Y("accuracy:Q", scale=unit, title="right", axis=axis)
    diagonal = base.transform_calculate(zero="0", one="1").mark_rule(color=WASH, strokeDash=[3, 3]).encode(
        x=alt.X("zero:Q", scale=unit, title="confidence", axis=across), x2="one:Q",
        y=alt.Y("zero:Q", scale=unit, title="right", axis=axis), y2="one:Q",
    )  # fmt: skip
    band = base.mark_area(color=WASH, opacity=0.45, interpolate="linear").encode(
        x=x, y=alt.Y("band_low:Q", scale=unit, title="right", axis=axis), y2="band_high:Q"
    )
    color = alt.Color("run:N", scale=colors.scale(runs), legend=None)
    size = alt.Size("n:Q", scale=alt.Scale(range=[14, 200]), legend=None)
    dots = base.mark_circle(opacity=0.95, stroke=PAPER, strokeWidth=0.5).encode(
        x=x, y=y, size=size, color=color, description="label:N"
    )
    columns = min(3, len(runs))
    side = {1: 230, 2: 190}.get(columns, 128)
    panel = alt.layer(band, diagonal, dots).properties(width=side, height=side)
    header = alt.Header(labelFontSize=11, labelLimit=side, labelPadding=4)
    return panel.facet(facet=alt.Facet("run:N", sort=list(runs), header=header), columns=columns, spacing=18)


def risk_chart(risk: pl.DataFrame, runs: Sequence[str], colors: RunColors) -> Any:
    """Error rate among the most confident answers, all runs in one panel, with their bands."""
    kept, wrong = (100 * pl.col("coverage")).round(1), ranged("risk", "risk_low", "risk_high", digits=1, percent=True)
    label = pl.format("{}: of the {} % most confident answers {} are wrong, n = {}", "run", kept, wrong, "n")
    data = risk.with_columns(label=label)
    top = max([0.05, *data["risk_high"].to_list()])
    scale = alt.Scale(domain=[0, min(1.0, top * 1.05)], nice=True)
    base = alt.Chart(data)
    x = alt.X("coverage:Q", scale=alt.Scale(domain=[0, 1]), title="answers kept, most confident first",
              axis=alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1]))  # fmt: skip
    axis = alt.Axis(format=".0%", tickCount=5)
    color = alt.Color("run:N", scale=colors.scale(runs), legend=run_legend())
    band = base.mark_area(opacity=0.16).encode(
        x=x, y=alt.Y("risk_low:Q", scale=scale, title="wrong", axis=axis), y2="risk_high:Q",
        color=color,
    )  # fmt: skip
    y = alt.Y("risk:Q", scale=scale, title="wrong", axis=axis)
    line = base.mark_line(strokeWidth=2).encode(x=x, y=y, color=color)
    marked = "indexof([0.1, 0.25, 0.5, 0.75, 1], round(datum.coverage * 100) / 100) >= 0"
    dots = base.transform_filter(marked).mark_circle(size=44, opacity=1).encode(
        x=x, y=y, color=color, description="label:N"
    )  # fmt: skip
    return alt.layer(band, line, dots).properties(width=330, height=200)

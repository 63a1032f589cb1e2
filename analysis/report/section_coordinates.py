"""Pictures of coordinate answers: the ladder, the errors, confidence against error."""

from __future__ import annotations

__all__ = ["confidence_chart", "error_chart", "ladder_chart", "plan_coordinates"]

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from vlm_backbones.analysis.report.labels import ranged
from vlm_backbones.analysis.report.maps import plan_maps
from vlm_backbones.analysis.report.palette import INK, MUTED, PAPER, RunColors, run_legend
from vlm_backbones.analysis.report.places import error_groups, error_shares, read_places
from vlm_backbones.analysis.report.view import Plan, View, sizes

_PERCENT = alt.Axis(format=".0%", tickCount=5)
_KILOMETRES = [1, 10, 100, 1000, 10_000]
_RUNGS = {
    "answered": "answered", "parsed": "parsed", "in_range": "on the globe", "within_1000_km": "1000 km",
    "within_250_km": "250 km", "within_100_km": "100 km", "within_50_km": "50 km",
}  # fmt: skip
_MOST_DOTS = 250


def plan_coordinates(view: View, task: str) -> list[Plan]:
    """The pictures of one coordinates task; none for other tasks."""
    table = view.table("coordinates", task=task)
    if not table.height:
        return []
    runs = [run for run in view.drawn if run in set(table["run"])]
    table = table.filter(pl.col("run").is_in(runs))
    places = read_places(view.samples(task), runs)
    n, tail, choice = sizes(table["n"]), view.too_many(view.drawn), (task,)
    about = (
        "Share of all questions that reach each rung, from any answer to one within 50 km, with 95 % intervals; "
        f"{n}.{tail}"
    )
    chart = ladder_chart(_rungs(view, task, table), runs, view.colors)
    plans = [Plan("coordinates", f"ladder_{task}", "How far up the ladder?", about, chart, "coordinates", choice)]
    shares = error_shares(places, view.seed)
    about = (
        "Share of all questions whose answer lies within a distance (log scale), with 95 % bands; the further left and "
        f"up, the better. A curve ends below 100 % where answers have no coordinates; {n}.{tail}"
    )
    chart = error_chart(shares, runs, view.colors)
    plans.append(Plan("coordinates", f"errors_{task}", "How far off are the answers?", about, chart, shares, choice))
    groups = error_groups(places, view.seed)
    if groups.height:
        known = groups.group_by("run").agg(pl.col("n").sum())["n"]
        about = (
            "A dot is an answer; rings are the median error of five equal groups of confidence, with 95 % intervals. A "
            f"confidence worth its name falls to the right; {sizes(known)} with a confidence.{tail}"
        )
        chart = confidence_chart(places, groups, runs, view.colors)
        title = "Is it nearer when it is surer?"
        plans.append(Plan("coordinates", f"confidence_{task}", title, about, chart, groups, choice))
    return plans + plan_maps(view, task, places, runs)


def _rungs(view: View, task: str, coordinates: pl.DataFrame) -> pl.DataFrame:
    """A row a run and rung: share, and its interval where it has one."""
    data = coordinates.unpivot(list(_RUNGS), index=["run", "n"], variable_name="rung", value_name="share")
    found = [view.range("coordinates", task, run, rung) for run, rung in data.select("run", "rung").iter_rows()]
    return data.with_columns(
        low=pl.Series([None if one is None else one.low for one in found], dtype=pl.Float64),
        high=pl.Series([None if one is None else one.high for one in found], dtype=pl.Float64),
    )


def ladder_chart(rungs: pl.DataFrame, runs: Sequence[str], colors: RunColors) -> Any:
    """How far up the ladder each run's answers get."""
    reached = ranged("share", "low", "high", digits=1, percent=True)
    data = rungs.with_columns(pl.col("rung").replace_strict(_RUNGS)).with_columns(
        label=pl.format("{}, {}: {} of {}", "run", "rung", reached, "n")
    )
    base = alt.Chart(data).encode(
        x=alt.X("rung:N", sort=list(_RUNGS.values()), title=None, axis=alt.Axis(labelAngle=-30, grid=False)),
        y=alt.Y("share:Q", scale=alt.Scale(domain=[0, 1]), axis=_PERCENT, title=None),
        color=_run_color(runs, colors),
    )
    line = base.mark_line(strokeWidth=2)
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.5, aria=False).encode(
        y=alt.Y("low:Q", scale=alt.Scale(domain=[0, 1]), axis=_PERCENT, title=None), y2="high:Q"
    )  # fmt: skip
    dots = base.mark_circle(size=60, opacity=1).encode(description="label:N")
    return alt.layer(bars, line, dots).properties(width=290, height=190)


def error_chart(shares: pl.DataFrame, runs: Sequence[str], colors: RunColors) -> Any:
    """Empirical distribution of the error on a logarithmic axis, with bands and the rungs of the ladder."""
    near = ranged("share", "share_low", "share_high", digits=1, percent=True)
    label = pl.format("{}: {} within {} km, n = {}", "run", near, pl.col("km").round(0).cast(pl.Int64), "n")
    # Beyond the last answer the curves are flat.
    ends = shares.group_by("run").agg(pl.col("km").filter(pl.col("share") == pl.col("share").max()).min())["km"]
    furthest = max([1000.0, *ends.to_list()])
    data = shares.filter(pl.col("km") <= furthest).with_columns(label=label)
    base = alt.Chart(data)
    x = alt.X("km:Q", scale=alt.Scale(type="log", domain=[1, furthest], nice=False, clamp=True),
              title="kilometres off", axis=alt.Axis(values=_KILOMETRES, format="~s"))  # fmt: skip
    unit = alt.Scale(domain=[0, 1])
    color = _run_color(runs, colors)
    band = base.mark_area(opacity=0.16).encode(
        x=x, y=alt.Y("share_low:Q", scale=unit, axis=_PERCENT, title=None), y2="share_high:Q", color=color
    )
    y = alt.Y("share:Q", scale=unit, axis=_PERCENT, title=None)
    line = base.mark_line(strokeWidth=2).encode(x=x, y=y, color=color)
    rungs = base.transform_filter("indexof([50, 100, 250, 1000], datum.km) >= 0")
    dots = rungs.mark_circle(size=44, opacity=1).encode(x=x, y=y, color=color, description="label:N")
    return alt.layer(band, line, dots).properties(width=290, height=200)


def confidence_chart(places: pl.DataFrame, groups: pl.DataFrame, runs: Sequence[str], colors: RunColors) -> Any:
    """Error against confidence, a panel a run; medians of five groups over a sample of the answers."""
    known = places.filter(pl.col("confidence").is_not_null() & pl.col("error_km").is_not_nan())
    few = known.filter(pl.int_range(pl.len()).over("run") < _MOST_DOTS)
    dots = few.select("run", "confidence", pl.col("error_km").clip(1, 20_015), kind=pl.lit("answer"))
    label = pl.format(
        "{}: at confidence {} the median error in km is {}, n = {}", "run", pl.col("confidence").round(5),
        ranged("error_km", "low_km", "high_km", digits=0), "n",
    )  # fmt: skip
    medians = groups.with_columns(label=label, kind=pl.lit("median")).with_columns(
        pl.col("error_km", "low_km", "high_km").clip(1, 20_015)
    )
    present = [run for run in runs if run in set(groups["run"])]
    data = pl.concat([dots, medians.drop("task", "n_missing")], how="diagonal")
    base = alt.Chart(data)
    # Long answers have tiny probabilities: then only a logarithmic axis shows them apart.
    lowest, highest = (float(known["confidence"].quantile(share) or 0.0) for share in (0.02, 1.0))
    ticks = [tick for power in range(-9, 1) for tick in (10.0**power, 3 * 10.0**power) if lowest <= tick <= highest]
    wide = alt.Scale(type="log", domain=[max(lowest, 1e-9), highest], nice=False)
    scale, values = (wide, ticks) if lowest < 0.05 and ticks else (alt.Scale(domain=[0, 1]), [0, 0.5, 1])
    x = alt.X("confidence:Q", scale=scale, title="confidence", axis=alt.Axis(values=values, format="~g", grid=False))
    furthest = max(1000.0, float(dots["error_km"].max() or 0.0))  # type: ignore[arg-type]
    log = alt.Scale(type="log", domain=[1, furthest], nice=False)
    axis = alt.Axis(values=_KILOMETRES, format="~s")
    y = alt.Y("error_km:Q", scale=log, title="kilometres off", axis=axis)
    color = alt.Color("run:N", scale=colors.scale(present), legend=None)
    answers = base.transform_filter("datum.kind == 'answer'").mark_circle(size=9, opacity=0.35, clip=True, aria=False)
    median = base.transform_filter("datum.kind == 'median'")
    line = median.mark_line(color=INK, strokeWidth=1.2).encode(x=x, y=y)
    bars = median.mark_rule(color=INK, strokeWidth=1.5).encode(
        x=x, y=alt.Y("low_km:Q", scale=log, title="kilometres off", axis=axis), y2="high_km:Q"
    )
    ring = median.mark_circle(size=46, opacity=1, color=PAPER, stroke=INK, strokeWidth=1.5).encode(
        x=x, y=y, description="label:N"
    )
    columns = min(3, len(present))
    side = {1: 260, 2: 140}.get(columns, 92)
    layers = alt.layer(answers.encode(x=x, y=y, color=color), line, bars, ring).properties(width=side, height=190)
    header = alt.Header(labelFontSize=10, labelLimit=side + 12, labelPadding=4, labelColor=MUTED)
    return layers.facet(facet=alt.Facet("run:N", sort=present, header=header), columns=columns, spacing=14)


def _run_color(runs: Sequence[str], colors: RunColors) -> alt.Color:
    return alt.Color("run:N", scale=colors.scale(runs), legend=run_legend())

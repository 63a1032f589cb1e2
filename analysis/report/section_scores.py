"""Pictures of the first screen: the paired difference by task, and every run's score."""

from __future__ import annotations

__all__ = ["difference_chart", "plan_scores", "score_chart"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from vlm_backbones.analysis.report.changes import Change, Changes
from vlm_backbones.analysis.report.labels import ranged
from vlm_backbones.analysis.report.palette import BAD, GOOD, INK, MUTED, PAPER, WASH, RunColors
from vlm_backbones.analysis.report.view import Plan, View, plural, sizes

_PERCENT = alt.Axis(format=".0%", tickCount=5)
_POINTS = "datum.value > 0 ? '+' + datum.label : datum.label"
_MOST_TASKS = 30


def plan_scores(view: View, changes: Changes | None, letters: Mapping[tuple[str, str], str]) -> list[Plan]:
    """The paired differences of the verdict, and the scores of the runs that are drawn."""
    plans = []
    if changes is not None and (shares := [row for row in changes.of_newest if row.is_share]):
        plans.append(_difference_plan(view, changes, shares))
    clean = view.headline().filter(pl.col("run").is_in(view.drawn))
    tasks = [task for task in view.tasks if task in set(clean["task"]) and view.is_share(task)]
    clean = clean.filter(pl.col("task").is_in(tasks))
    if clean.height:
        blind = view.headline("swap").filter(pl.col("run").is_in(view.drawn))
        parts = ["Score and 95 % interval", sizes(clean["n"])]
        if blind.height:
            parts.append(f"grey tick: the same run shown another question's image, {sizes(blind['n'])}")
        if letters:
            parts.append("runs of a task that share a letter cannot be told apart")
        about = "; ".join(parts) + "." + view.too_many(view.drawn)
        if len(tasks) > _MOST_TASKS:
            about += f" The first {_MOST_TASKS} of {plural(len(tasks), 'task')}."
        chart = score_chart(clean, blind, view.drawn, tasks[:_MOST_TASKS], view.colors, letters)
        plans.append(Plan("scores", "scores", "Where each run stands", about, chart, "scores"))
    return plans


def _difference_plan(view: View, changes: Changes, shares: Sequence[Change]) -> Plan:
    """The newest side against each other one on the tasks with the largest differences."""
    ranked = dict.fromkeys(row.task for row in sorted(shares, key=lambda row: -abs(row.diff[0])))
    tasks = [task for task in view.tasks if task in list(ranked)[:_MOST_TASKS]]
    shown = [row for task in tasks for row in shares if row.task == task]
    cut = f" The {_MOST_TASKS} largest of {len(ranked)} tasks." if len(ranked) > _MOST_TASKS else ""
    seeds = f", mean over {changes.seeds} seeds" if changes.seeds > 1 else ""
    several = len(changes.sides) > 2
    minus, family = ("each other one", "task's pairs") if several else (changes.old, "tasks")
    about = (
        f"Each question is compared with itself: {changes.new} minus {minus}{seeds}, points and 95 % interval, "
        f"{sizes(row.n for row in shown)}. Right of the line: {changes.new} is better; grey: no clear difference "
        f"(interval, and p after Holm over the {family}).{cut}"
    )
    rows = pl.DataFrame(
        [(row.task, row.old, row.new, *row.diff, row.side, row.p, row.p_holm, row.n) for row in shown],
        schema=["task", "old", "new", "diff", "diff_low", "diff_high", "side", "p", "p_holm", "n"],
        orient="row",
    )
    title = f"What {changes.new} changes, task by task" if several else "What changes, task by task"
    return Plan("scores", "differences", title, about, difference_chart(rows, tasks), rows)


def difference_chart(pairs: pl.DataFrame, tasks: Sequence[str]) -> Any:
    """Forest plot of the paired differences, green where the new side is better, red where it is worse.

    A row a task; where the new side is compared with several, a row each of them and a panel a task.
    """
    several = pairs["old"].n_unique() > 1
    points = [(100 * pl.col(name)).alias(name) for name in ("diff", "diff_low", "diff_high")]
    data = pairs.select("task", "old", "new", *points, "side", "n", minus=pl.format("\u2212 {}", "old"))
    signed = data.select("diff", "diff_low", "diff_high").iter_rows()
    shown = [f"{_signed(value)} {_signed_range(low, high)}" for value, low, high in signed]
    data = data.with_columns(shown=pl.Series(shown, dtype=pl.String))
    data = data.with_columns(label=pl.format("{}, {} \u2212 {}: {} points, n = {}", "task", "new", "old", "shown", "n"))
    ends = [0.0, *(end for name in ("diff_low", "diff_high") for end in data[name].drop_nulls().drop_nans())]
    scale = alt.Scale(domain=[min(ends) - 1, max(ends) + 1], nice=False)
    color = alt.Color(
        "side:N", scale=alt.Scale(domain=["better", "worse", "unclear"], range=[GOOD, BAD, MUTED]), legend=None
    )
    base = alt.Chart(data)
    field, order = ("minus", data["minus"].unique(maintain_order=True).to_list()) if several else ("task", list(tasks))
    y = alt.Y(f"{field}:N", sort=order, title=None, axis=alt.Axis(grid=False, labelColor=INK))
    x = alt.X("diff_low:Q", scale=scale, title="points", axis=alt.Axis(tickCount=3, labelExpr=_POINTS))
    zero = base.mark_rule(color=INK, strokeWidth=1).encode(x=alt.datum(0))
    rule = base.mark_rule(strokeWidth=2.5, strokeCap="round").encode(
        x=x, x2="diff_high:Q", y=y, color=color, description="label:N"
    )
    dot = base.mark_circle(size=80, opacity=1, stroke=PAPER, strokeWidth=1).encode(
        x="diff:Q", y=y, color=color, description="label:N"
    )
    text = base.mark_text(align="left", fontSize=11).encode(x=alt.value(164), y=y, text="shown:N", color=color)
    layers = alt.layer(zero, rule, dot, text).properties(width=156, height=alt.Step(22 if several else 26))
    if not several:
        return layers
    head = alt.Header(orient="top", labelAnchor="start")
    return layers.facet(row=alt.Row("task:N", sort=list(tasks), header=head), spacing=8)


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\u2212")


def _signed_range(low: float | None, high: float | None) -> str:
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return "(interval not defined)"
    return f"[{_signed(low)}, {_signed(high)}]"


def score_chart(
    headline: pl.DataFrame,
    blind: pl.DataFrame,
    runs: Sequence[str],
    tasks: Sequence[str],
    colors: RunColors,
    letters: Mapping[tuple[str, str], str],
) -> Any:
    """Dot and interval of each run's headline metric with its letters; a tick is the run seeing another's image."""
    marks = [letters.get((task, run), "") for task, run in headline.select("task", "run").iter_rows()]
    percent = (100 * pl.col("value")).round(1).cast(pl.String)
    reached = ranged("value", "ci_low", "ci_high", digits=1, percent=True)
    label = pl.format("{}, {}: {}, n = {}", "run", "task", reached, "n")
    data = pl.concat(
        [headline.with_columns(kind=pl.lit("score"), letters=pl.Series(marks, dtype=pl.String)),
         blind.with_columns(kind=pl.lit("blind baseline"))], how="diagonal",
    ).with_columns(label=label, shown=pl.format("{} {}", percent, pl.col("letters").fill_null("")))  # fmt: skip
    data = data.filter(pl.col("task").is_in(list(tasks)))
    base = alt.Chart(data)
    y = alt.Y("run:N", sort=list(runs), title=None, axis=alt.Axis(grid=False, labelColor=INK))
    color = alt.Color("run:N", scale=colors.scale(runs), legend=None)
    low = min([0.0, *data["ci_low"].drop_nans().drop_nulls().to_list()])
    scale = alt.Scale(domain=[low, max([1.0, *data["ci_high"].drop_nans().drop_nulls().to_list()])])
    clean = base.transform_filter("datum.kind == 'score'")
    rule = clean.mark_rule(strokeWidth=2.5, strokeCap="round").encode(
        x=alt.X("ci_low:Q", scale=scale, axis=_PERCENT, title=None), x2="ci_high:Q", y=y, color=color,
        description="label:N",
    )  # fmt: skip
    dot = clean.mark_circle(size=80, opacity=1, stroke=PAPER, strokeWidth=1).encode(
        x="value:Q", y=y, color=color, description="label:N"
    )
    text = clean.mark_text(align="left", fontSize=11, color=MUTED).encode(x=alt.value(252), y=y, text="shown:N")
    swap = (
        base.transform_filter("datum.kind != 'score'")
        .mark_tick(thickness=2, size=14, color=WASH)
        .encode(x="value:Q", y=y, description="label:N")
    )
    layers = alt.layer(rule, swap, dot, text).properties(width=244, height=alt.Step(22))
    return layers.facet(
        row=alt.Row("task:N", sort=list(tasks), header=alt.Header(orient="top", labelAnchor="start")), spacing=8
    )

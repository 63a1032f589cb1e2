"""Pictures of which questions the runs share: correlation matrix, questions lost and won, exact sets."""

from __future__ import annotations

__all__ = ["agreement_chart", "flip_chart", "plan_agreement", "sets_among", "solved_chart"]

from collections import Counter
from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from vlm_backbones.analysis.report.labels import ranged
from vlm_backbones.analysis.report.palette import BAD, GOOD, INK, PAPER, RULE, WASH, RunColors
from vlm_backbones.analysis.report.view import Plan, View, sizes

_MOST_PAIRS = 15
_MOST_SETS = 12
_MOST_NUMBERS = 12


def plan_agreement(view: View, task: str) -> list[Plan]:
    """The pictures of one task; none where no two runs share a scored question."""
    pairs = view.table("agreement", task=task) if view.is_share(task) else pl.DataFrame()
    if not pairs.height or not (pairs := pairs.filter(pl.col("n") > 0)).height:
        return []
    n, choice = sizes(pairs["n"]), (task,)
    logged = set(pairs["run_a"]) | set(pairs["run_b"])
    matrix_runs = [run for run in view.in_matrix if run in logged]
    drawn = [run for run in view.drawn if run in logged]
    about = f"phi of right and wrong for every two runs: 1 = the same questions, 0 = unrelated; {n}."
    plans = [
        Plan("agreement", f"phi_{task}", "Do they solve the same questions?", about + view.too_many(view.in_matrix),
             agreement_chart(pairs, matrix_runs), "agreement", choice)
    ]  # fmt: skip
    flips = _with_ranges(view, task, _flips(pairs, drawn))
    if flips.height:
        some = f" Shown: {flips.height} of {pairs.height:,} pairs." if flips.height < pairs.height else ""
        about = (
            "Share of the questions that are right only before (lost) or only after (won) the change, with 95 % "
            f"intervals; {n}.{some}"
        )
        chart = flip_chart(flips)
        plans.append(Plan("agreement", f"flips_{task}", "Questions lost and won", about, chart, "agreement", choice))
    sets = sets_among(view.table("solved_by", task=task), drawn, view.runs)
    if sets.height and len(drawn) > 1:
        total = f"n\u00a0=\u00a0{int(sets['count'].sum()):,}"
        about = f"Questions by the exact set of runs that solve them; {total}." + view.too_many(view.drawn)
        if sets.height > _MOST_SETS:
            about += f" The {_MOST_SETS} largest of {sets.height} sets."
        chart = solved_chart(sets.head(_MOST_SETS), drawn, view.colors)
        plans.append(Plan("agreement", f"solved_{task}", "Who solves what", about, chart, "solved_by", choice))
    return plans


def _flips(pairs: pl.DataFrame, drawn: Sequence[str]) -> pl.DataFrame:
    """All pairs where they are few, else each drawn run against the first."""
    if pairs.height <= _MOST_PAIRS:
        return pairs
    return pairs.filter(pl.col("run_a") == drawn[0], pl.col("run_b").is_in(list(drawn))) if drawn else pairs.head(0)


def _with_ranges(view: View, task: str, flips: pl.DataFrame) -> pl.DataFrame:
    """Add the intervals of both flip rates: lost_low, lost_high, won_low, won_high."""
    columns = []
    for kind, measure in (("lost", "negative_flip_rate"), ("won", "positive_flip_rate")):
        found = [
            view.range("agreement", task, f"{a} + {b}", measure) for a, b in flips.select("run_a", "run_b").iter_rows()
        ]
        for end in ("low", "high"):
            ends = [None if one is None else getattr(one, end) for one in found]
            columns.append(pl.Series(f"{kind}_{end}", ends, dtype=pl.Float64))
    return flips.with_columns(columns)


def agreement_chart(agreement: pl.DataFrame, runs: Sequence[str]) -> Any:
    """Phi of every two runs on one task, both halves of the matrix; a dash where it is undefined."""
    both = [
        {"a": a, "b": b, "phi": phi, "low": low, "high": high, "n": n}
        for x, y, phi, low, high, n in agreement.select("run_a", "run_b", "phi", "phi_low", "phi_high", "n").iter_rows()
        for a, b in ((x, y), (y, x))
        if a in runs and b in runs
    ]
    label = pl.format("{} and {}: phi {}, n = {}", "a", "b", ranged("phi", "low", "high", digits=2), "n")
    data = pl.DataFrame(both, strict=False).with_columns(label=label, phi=pl.col("phi").fill_nan(None))
    side = 52 if len(runs) < 5 else 40 if len(runs) <= _MOST_NUMBERS else max(11, 480 // len(runs))
    order = list(runs)
    angle, size = (-40, 11) if len(runs) <= 12 else (-90, 9)
    base = alt.Chart(data).encode(
        x=alt.X(
            "b:N",
            sort=order,
            title=None,
            axis=alt.Axis(labelAngle=angle, labelColor=INK, labelFontSize=size, labelLimit=140),
        ),
        y=alt.Y("a:N", sort=order, title=None, axis=alt.Axis(labelColor=INK, labelFontSize=size)),
    )
    key = alt.Legend(orient="right", gradientLength=80, gradientThickness=10, values=[-1, 0, 1], title=None)
    legend = key if len(runs) > _MOST_NUMBERS else None
    scale = alt.Scale(domain=[-1, 0, 1], range=["#c2413c", "#f3f1ea", "#2f6f9f"], interpolate="rgb")
    cells = base.mark_rect(cornerRadius=3, stroke=PAPER, strokeWidth=1.5, invalid="show").encode(
        color=alt.condition(
            "isValid(datum.phi)", alt.Color("phi:Q", scale=scale, legend=legend), alt.value(RULE)
        ),
        description="label:N",
    )  # fmt: skip
    text = base.mark_text(fontSize=12 if len(runs) < 5 else 10, aria=False).encode(
        text=alt.condition("isValid(datum.phi)", alt.Text("phi:Q", format=".2f"), alt.value("\u2013")),
        color=alt.condition("abs(datum.phi) > 0.55", alt.value("#ffffff"), alt.value("#15181b")),
    )
    layers = [cells, text] if len(runs) <= _MOST_NUMBERS else [cells]
    return alt.layer(*layers).properties(width=alt.Step(side), height=alt.Step(min(side, 40)))


def flip_chart(pairs: pl.DataFrame) -> Any:
    """Share of questions lost (left) and won (right) by going from the first run to the second."""
    pair = pl.col("run_a") + " \u2192 " + pl.col("run_b")
    sides = [
        pairs.select(
            pair.alias("pair"), "n", kind=pl.lit(kind), share=sign * pl.col(rate), low=sign * pl.col(f"{kind}_low"),
            high=sign * pl.col(f"{kind}_high"),
        )
        for kind, sign, rate in (("lost", -1, "negative_flip_rate"), ("won", 1, "positive_flip_rate"))
    ]  # fmt: skip
    percent = (100 * pl.col("share").abs()).round(1).cast(pl.String).fill_null("\u2013")
    turned = ranged("share", "low", "high", digits=1, percent=True, absolute=True)
    data = pl.concat(sides).with_columns(
        label=pl.format("{}: {} {} of {} questions", "pair", "kind", turned, "n"), shown=percent
    )
    ends = pl.concat([data["share"], data["high"]]).abs().fill_nan(0).drop_nulls()
    limit = max([0.02, *ends.to_list()]) * 1.3
    axis = alt.Axis(labelExpr="format(abs(datum.value), '.0%')", tickCount=5)

    def across(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=alt.Scale(domain=[-limit, limit], nice=False), title=None, axis=axis)

    base = alt.Chart(data)
    scale = alt.Scale(domain=["lost", "won"], range=[BAD, GOOD])
    bars = base.mark_bar(height=11, cornerRadius=2).encode(
        x=across("share"),
        color=alt.Color("kind:N", scale=scale, legend=alt.Legend(symbolType="square", symbolStrokeWidth=0)),
        description="label:N",
    )
    whiskers = base.mark_rule(color=INK, strokeWidth=1.2, aria=False).encode(x=across("low"), x2="high:Q")
    at_end = base.transform_calculate(end="isValid(datum.high) ? datum.high : datum.share").encode(x=across("end"))
    left = at_end.transform_filter("datum.kind == 'lost'").mark_text(align="right", dx=-4, fontSize=11)
    right = at_end.transform_filter("datum.kind == 'won'").mark_text(align="left", dx=4, fontSize=11)
    texts = [mark.encode(text="shown:N") for mark in (left, right)]
    layers = alt.layer(bars, whiskers, *texts).properties(width=300, height=12)
    order = data["pair"].unique(maintain_order=True).to_list()
    head = alt.Header(orient="top", labelAnchor="start", labelFontWeight="normal", labelFontSize=11, labelPadding=3)
    return layers.facet(row=alt.Row("pair:N", sort=order, header=head), spacing=4)


def sets_among(solved: pl.DataFrame, drawn: Sequence[str], runs: Sequence[str]) -> pl.DataFrame:
    """Exact sets among the drawn runs, the largest first: sets of all runs that look the same there are added up."""
    if not solved.height:
        return pl.DataFrame()
    if list(drawn) == list(runs):
        return solved
    counts: Counter[str] = Counter()
    for names, count in solved.select("runs_right", "count").iter_rows():
        right = set(names.split(" + "))
        counts[" + ".join(run for run in drawn if run in right) or "none"] += count
    rows = [{"task": solved["task"][0], "runs_right": names, "count": count} for names, count in counts.most_common()]
    return pl.DataFrame(rows)


def solved_chart(sets: pl.DataFrame, runs: Sequence[str], colors: RunColors) -> Any:
    """UpSet plot: a column is an exact set of runs, its bar the number of questions that just these solve."""
    total = int(sets["count"].sum())
    label = pl.format("{} of {} questions: right with exactly {}", "count", pl.lit(total), "runs_right")
    top = sets.with_row_index("set").with_columns(label=label)
    cells = pl.DataFrame(
        [
            {"set": i, "run": run, "hit": run in names.split(" + ")}
            for i, names in enumerate(top["runs_right"])
            for run in runs
        ]
    )
    step = alt.Step(24 if top.height > 8 else 28)
    x = alt.X("set:O", axis=None)
    bars = alt.Chart(top).encode(x=x, y=alt.Y("count:Q", axis=None))
    shown = bars.mark_bar(width=15, cornerRadius=2, color=WASH).encode(description="label:N")
    text = bars.mark_text(baseline="bottom", dy=-3, fontSize=10).encode(text="count:Q")
    y = alt.Y("run:N", sort=list(runs), title=None, axis=alt.Axis(labelColor=INK, grid=False, labelLimit=140))
    dots = alt.Chart(cells).mark_circle(size=90, opacity=1).encode(
        x=x, y=y,
        color=alt.condition("datum.hit", alt.Color("run:N", scale=colors.scale(runs), legend=None), alt.value(RULE)),
    )  # fmt: skip
    links = alt.Chart(cells).transform_filter("datum.hit").mark_line(color=WASH, strokeWidth=2).encode(
        x=x, y=y, detail="set:O"
    )  # fmt: skip
    above = alt.layer(shown, text).properties(width=step, height=110)
    below = alt.layer(links, dots).properties(width=step, height=alt.Step(20))
    return alt.vconcat(above, below, spacing=4).resolve_scale(x="shared")

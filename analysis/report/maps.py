"""Maps of true against answered places: the world, and each frame of the task."""

from __future__ import annotations

__all__ = ["frame_chart", "plan_maps", "world_chart"]

from typing import Any

import altair as alt
import polars as pl

from vlm_backbones.analysis.report.frames import MOST_FRAMES, MOST_PLACES, SIDE, Frame, find_frames
from vlm_backbones.analysis.report.land import land_picture
from vlm_backbones.analysis.report.palette import BAD, INK, ODD, PAPER, RULE
from vlm_backbones.analysis.report.view import Plan, View, plural

_MOST_IN_WORLD = 600
_FAR_KM = 1000
_WAYS = ["as given", "swapped", "sign flipped"]
_FAR = (pl.col("error_km") > _FAR_KM) | (pl.col("way") != _WAYS[0])


def plan_maps(view: View, task: str, places: pl.DataFrame, runs: list[str]) -> list[Plan]:
    """For each run the world with its far answers, and every frame with lines from truth to answer."""
    plans = []
    for number, run in enumerate(runs):
        own = _to_draw(places.filter(run=run))
        answered = own.drop_nulls("answer_latitude")
        if not answered.height:
            continue
        choice = (task, run)
        color = view.colors.color(run)
        far = answered.filter(_FAR)
        ways = [f"{answered.filter(way=way).height:,} {way}" for way in _WAYS[1:]]
        about = (
            f"Dots: true places. Lines lead to the answers that are more than {_FAR_KM:,} km off, swapped or flipped: "
            f"{far.height:,} of {answered.height:,} ({', '.join(ways)}); "
            f"{plural(own.height - answered.height, 'answer')} without coordinates."
        )
        chart = world_chart(own, color)
        title = f"{run}: wrong side of the world?"
        plans.append(Plan("coordinates", f"world_{task}_{number}", title, about, chart, places, choice))
        frames = find_frames(answered)
        if frames:
            count = answered["frame"].n_unique() - answered["frame"].is_null().any()
            most = max(frame.n for frame in frames)
            cut = f" At most {MOST_PLACES} questions a frame are drawn." if most > MOST_PLACES else ""
            cut += f" The {MOST_FRAMES} largest of {count} frames." if count > MOST_FRAMES else ""
            about = (
                "A dot is the true place, the end of its line the answer; each frame names its window, its median "
                f"error with the 95 % interval, and n.{cut}"
            )
            chart = frame_chart(frames, color)
            title = f"{run}: truth to answer, by frame"
            plans.append(Plan("coordinates", f"frames_{task}_{number}", title, about, chart, places, choice))
    return plans


def _to_draw(places: pl.DataFrame) -> pl.DataFrame:
    """Answers as they are drawn: the longitude on the near side of the date line, and how the answer went wrong."""
    turn = 360 * ((pl.col("longitude") - pl.col("answer_longitude")) / 360).round()
    way = (
        pl.when("swapped")
        .then(pl.lit(_WAYS[1]))
        .when("sign_flipped")
        .then(pl.lit(_WAYS[2]))
        .otherwise(pl.lit(_WAYS[0]))
    )
    numbers = [pl.col(name).round(2) for name in ("latitude", "longitude", "answer_latitude", "answer_longitude")]
    label = pl.format(
        "true {}, {}; answer {}, {}: {} km off", *numbers, pl.col("error_km").round(0).cast(pl.Int64, strict=False)
    )
    return places.drop_nulls("latitude").with_columns(
        label=label, way=way, answer_longitude=pl.col("answer_longitude") + turn
    )


def _color(color: str, legend: bool) -> alt.Color:
    scale = alt.Scale(domain=_WAYS, range=[color, BAD, ODD])
    shown = alt.Legend(symbolType="stroke", symbolStrokeWidth=3) if legend else None
    return alt.Color("way:N", scale=scale, legend=shown)


def world_chart(places: pl.DataFrame, color: str) -> Any:
    """The world with every true place; lines only where the answer is far off."""
    width, height = 620, 284
    south, north = -80.0, 85.0
    land = land_picture(south, north, -180, 180, width=width, height=height)
    shown = places.head(_MOST_IN_WORLD) if places.height > _MOST_IN_WORLD else places
    far = places.drop_nulls("answer_latitude").filter(_FAR).head(_MOST_IN_WORLD)
    x = alt.X("longitude:Q", scale=alt.Scale(domain=[-180, 180], nice=False), title=None,
              axis=alt.Axis(values=[-120, -60, 0, 60, 120], labelExpr=_DEGREES["E"], grid=True))  # fmt: skip
    y = alt.Y("latitude:Q", scale=alt.Scale(domain=[south, north], nice=False), title=None,
              axis=alt.Axis(values=[-60, -30, 0, 30, 60], labelExpr=_DEGREES["N"], grid=True))  # fmt: skip
    dots = alt.Chart(shown).mark_circle(size=14, opacity=0.8, color=INK, aria=False).encode(x=x, y=y)
    lines = alt.Chart(far).mark_rule(clip=True, strokeWidth=1.2, aria=False).encode(
        x=x, y=y, x2="answer_longitude:Q", y2="answer_latitude:Q", color=_color(color, legend=True)
    )  # fmt: skip
    ends = alt.Chart(far).mark_circle(clip=True, size=30, opacity=1).encode(
        x=alt.X("answer_longitude:Q"), y=alt.Y("answer_latitude:Q"), color=_color(color, legend=True),
        description="label:N",
    )  # fmt: skip
    return alt.layer(_land(land, width, height), dots, lines, ends).properties(width=width, height=height)


def frame_chart(frames: list[Frame], color: str) -> Any:
    """A small map a frame: dots are true places, lines end at the answers."""
    data = pl.concat([frame.rows() for frame in frames], how="diagonal")
    base = alt.Chart(data)
    unit = alt.Scale(domain=[0, 1], nice=False)
    x, y = alt.X("x:Q", scale=unit, axis=None), alt.Y("y:Q", scale=unit, axis=None)
    land = base.transform_filter("datum.kind == 'land'")
    back = land.mark_image(width=SIDE, height=SIDE, align="left", baseline="top", aspect=False, aria=False)
    answers = base.transform_filter("datum.kind == 'answer'")
    lines = answers.mark_rule(clip=True, strokeWidth=1.1, opacity=0.85, aria=False).encode(
        x=x, y=y, x2="x2:Q", y2="y2:Q", color=_color(color, legend=False)
    )
    dots = answers.mark_circle(size=16, opacity=1, color=INK, stroke=PAPER, strokeWidth=0.5).encode(
        x=x, y=y, description="label:N"
    )
    header = alt.Header(
        labelExpr="split(datum.label, '\\n')", labelAlign="left", labelAnchor="start", labelFontSize=10,
        labelFontWeight="normal", labelPadding=4, labelLimit=SIDE,
    )  # fmt: skip
    layers = [back.encode(x=alt.value(0), y=alt.value(0), url="url:N"), lines, dots]
    panel = alt.layer(*layers, view=alt.ViewBackground(stroke=RULE)).properties(width=SIDE, height=SIDE)
    order = data["frame"].unique(maintain_order=True).to_list()
    return panel.facet(facet=alt.Facet("frame:N", sort=order, header=header), columns=min(5, len(frames)), spacing=16)


def _land(picture: str, width: int, height: int) -> Any:
    mark = alt.Chart(pl.DataFrame({"url": [picture]})).mark_image(
        width=width, height=height, align="left", baseline="top", aspect=False, aria=False
    )
    return mark.encode(x=alt.value(0), y=alt.value(0), url="url:N")


_DEGREES = {
    "E": "format(abs(datum.value), '~g') + '\u00b0' + (datum.value < 0 ? 'W' : 'E')",
    "N": "format(abs(datum.value), '~g') + '\u00b0' + (datum.value < 0 ? 'S' : 'N')",
}

"""Render the charts: themed SVG inside the page, plain SVG and PNG beside it."""

from __future__ import annotations

__all__ = ["Picture", "render_pictures"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from vlm_backbones.analysis.report import charts
from vlm_backbones.analysis.report.palette import chart_config, themed
from vlm_backbones.cache import staged_path


@dataclass(frozen=True)
class Picture:
    """One chart: where it stands, what it shows, its SVG for the page and the table behind it."""

    name: str
    section: str
    task: str | None
    title: str
    svg: str
    table: str


def render_pictures(
    tables: Mapping[str, pl.DataFrame],
    headline: Mapping[str, str],
    runs: Sequence[str],
    tasks: Sequence[str],
    out: Path,
) -> list[Picture]:
    """Build every chart that the tables allow; save NAME.svg and NAME.png under OUT/charts."""
    plans: list[tuple[str, str, str | None, str, str, Any]] = []
    scores = tables["scores"].filter(pl.col("value").is_not_nan())
    own = pl.DataFrame(list(headline.items()), schema={"task": pl.String, "metric": pl.String}, orient="row")
    shown = scores.join(own, on=["task", "metric"])
    clean = shown.filter(pl.col("condition") == "clean")
    if clean.height:
        blind = shown.filter(pl.col("condition") == "swap")
        chart = charts.score_chart(clean, blind, runs, tasks)
        plans.append(("scores", "scores", None, "Score and 95 % interval", "scores", chart))
    for task in tasks:
        plans += _task_plans(tables, task, runs)
    return [_render(*plan, out=out) for plan in plans]


def _task_plans(tables: Mapping[str, pl.DataFrame], task: str, runs: Sequence[str]) -> list[tuple[Any, ...]]:
    plans: list[tuple[Any, ...]] = []
    part = {name: table.filter(pl.col("task") == task) for name, table in tables.items()}
    present = [run for run in runs if run in set(part["scores"]["run"])]
    pairs = part["agreement"].filter(pl.col("n") > 0)
    if pairs.height:
        matrix = charts.agreement_chart(pairs, present)
        plans.append((f"phi_{task}", "agreement", task, "Do they solve the same questions? (phi)", "agreement", matrix))
        if pairs.height <= 45:
            flips = charts.flip_chart(pairs)
            plans.append((f"flips_{task}", "agreement", task, "Questions lost and won", "agreement", flips))
        if len(present) <= 12:
            sets = charts.solved_chart(part["solved_by"], present)
            plans.append((f"solved_{task}", "agreement", task, "Solved by exactly these runs", "solved_by", sets))
    if part["coordinates"].height:
        ladder = charts.ladder_chart(part["coordinates"], runs)
        plans.append((f"ladder_{task}", "coordinates", task, "How near the answers are", "coordinates", ladder))
    if part["reliability"].height:
        bins = charts.reliability_chart(part["reliability"], runs)
        plans.append((f"reliability_{task}", "calibration", task, "Accuracy at each confidence", "reliability", bins))
    return plans


def _render(name: str, section: str, task: str | None, title: str, table: str, chart: Any, *, out: Path) -> Picture:
    import vl_convert

    spec = chart_config(chart).to_dict()
    svg = vl_convert.vegalite_to_svg(spec)
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    with staged_path(out / "charts" / f"{safe}.svg") as staged:
        staged.write_text(svg, encoding="utf-8")
    with staged_path(out / "charts" / f"{safe}.png") as staged:
        staged.write_bytes(vl_convert.vegalite_to_png(spec | {"background": "white"}, scale=2))
    return Picture(safe, section, task, title, themed(svg), table)

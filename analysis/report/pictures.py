"""Render the charts: themed SVG inside the page, plain SVG, PNG and the numbers beside it."""

from __future__ import annotations

__all__ = ["Picture", "legible", "render_picture", "render_plans"]

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from vlm_backbones.analysis.report.drawing import draw_all
from vlm_backbones.analysis.report.palette import CHART_CONFIG, themed
from vlm_backbones.analysis.report.view import Plan
from vlm_backbones.cache import staged_path

_LONGEST_NAME, _LONGEST_TEXT = 100, 300
_COLUMN_PX, _MOST_OF_PAGE_PX = 460, 700
# Controls (which no XML may hold), and marks that turn the direction of the text after them.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
# Escapes that JSON writes for controls, and unseen characters themselves.
_SUSPECT = re.compile(rf"\\u00|{_UNSEEN.pattern}")


@dataclass(frozen=True)
class Picture:
    """One chart: where it stands, what it shows, its SVG for the page and the table behind it.

    `choice` is its place among the section's choices (task, question type, ...); `own_data` says that its numbers lie
    beside the picture, not among the tables.
    """

    name: str
    section: str
    task: str | None
    title: str
    svg: str
    table: str
    about: str = ""
    choice: tuple[str, ...] = ()
    own_data: bool = False

    @property
    def size(self) -> str:
        """How much of the page's width it needs, as its CSS class: a column, more, or all of it."""
        width = re.search(r"max-width:([\d.]+)px", self.svg)
        px = float(width[1]) if width else 0.0
        return "widest" if px > _MOST_OF_PAGE_PX else "wide" if px > _COLUMN_PX else ""

    @property
    def csv(self) -> str:
        """Path of the numbers, relative to the page."""
        return f"charts/{self.table}.csv" if self.own_data else f"tables/{self.table}.csv"


def render_picture(
    name: str, section: str, task: str | None, title: str, table: str, chart: Any, *, out: Path
) -> Picture:
    """Save OUT/charts/NAME.svg and NAME.png of a chart over the table, and return it for the page."""
    safe = _file_name(name)
    svg = _save(safe, *draw_all([_spec(chart)])[0], out)
    return Picture(safe, section, task, title, svg, table)


def render_plans(plans: Sequence[Plan], out: Path) -> list[Picture]:
    """Render every plan; where its numbers are in no table, save them as OUT/charts/NAME.csv, once a frame."""
    names: set[str] = set()
    data: dict[int, str] = {}
    pictures = []
    for plan, drawn in zip(plans, draw_all([_spec(plan.chart) for plan in plans]), strict=True):
        name = _unused(_file_name(plan.name), names)
        own = isinstance(plan.data, pl.DataFrame)
        if isinstance(plan.data, pl.DataFrame) and id(plan.data) not in data:
            data[id(plan.data)] = name
            with staged_path(out / "charts" / f"{name}.csv") as staged:
                plan.data.write_csv(staged)
        table = data[id(plan.data)] if own else str(plan.data)
        task = plan.choice[0] if plan.choice else None
        svg = _save(name, *drawn, out)
        pictures.append(Picture(name, plan.section, task, plan.title, svg, table, plan.about, plan.choice, own))
    return pictures


def legible(text: str, longest: int = _LONGEST_TEXT) -> str:
    """Text of a log as a page or a picture may show it: invisible characters as their code, and not endless."""
    text = text if len(text) <= longest else f"{text[:longest]}\u2026"
    return _UNSEEN.sub(lambda match: f"U+{ord(match[0]):04X}", text)


def _spec(chart: Any) -> dict[str, Any]:
    import altair as alt

    with alt.data_transformers.disable_max_rows():
        spec: dict[str, Any] = chart.to_dict(validate=False)
    # Altair's own `configure` copies the whole chart at every call.
    spec["config"] = CHART_CONFIG
    text = json.dumps(spec, ensure_ascii=False)
    if _SUSPECT.search(text) or max(map(len, text.split('"'))) > _LONGEST_TEXT:
        spec = _legible(spec)
    return spec


def _save(name: str, svg: str, png: bytes, out: Path) -> str:
    """Write both files and return the SVG in the page's colours."""
    with staged_path(out / "charts" / f"{name}.svg") as staged:
        staged.write_text(svg, encoding="utf-8")
    with staged_path(out / "charts" / f"{name}.png") as staged:
        staged.write_bytes(png)
    return themed(svg, f"c{zlib.crc32(name.encode()):08x}")


def _legible(value: Any) -> Any:
    """The chart with every text legible: data and scales change alike, so that they still match."""
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, dict):
        # The only `url` is our own picture of the land.
        return {key: part if key == "url" else _legible(part) for key, part in value.items()}
    return [_legible(part) for part in value] if isinstance(value, list) else value


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)[:_LONGEST_NAME]


def _unused(name: str, taken: set[str]) -> str:
    """The name, or the name with the first free number; case does not count, as on some file systems."""
    number, found = 2, name
    while found.lower() in taken:
        found, number = f"{name}-{number}", number + 1
    taken.add(found.lower())
    return found

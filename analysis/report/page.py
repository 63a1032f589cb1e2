"""Fill the template: every value escaped, every script hashed, nothing loaded from elsewhere."""

from __future__ import annotations

__all__ = ["write_report"]

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from vlm_backbones.analysis.report.certificate import read_certificate
from vlm_backbones.analysis.report.explorer import script_json, write_explorer
from vlm_backbones.analysis.report.palette import RUN_COLORS
from vlm_backbones.analysis.report.pictures import Picture, render_pictures
from vlm_backbones.analysis.report.verdict import write_verdict
from vlm_backbones.analysis.samples import Logs
from vlm_backbones.cache import atomic_write_text

_HERE = Path(__file__).parent
_NONE, _MINUS = "\u2013", "\u2212"


def write_report(
    logs: Logs,
    tables: Mapping[str, pl.DataFrame],
    runs: Sequence[str],
    tasks: Sequence[str],
    out: Path,
    *,
    title: str,
    study_dir: Path | None = None,
    deviations: Sequence[str] = (),
) -> Path:
    """Write OUT/report.html with OUT/report_data and OUT/charts beside it; return the page's path."""
    pictures = render_pictures(tables, logs.headline, runs, tasks, out)
    index = write_explorer(logs, runs, tasks, out)
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment().get_template("report.html.j2").render(
        title=title,
        verdict=write_verdict(tables, logs.headline, runs),
        certificate=read_certificate(study_dir),
        deviations=deviations,
        runs=[{"name": run, "color": i % len(RUN_COLORS)} for i, run in enumerate(runs)],
        color_of={run: i % len(RUN_COLORS) for i, run in enumerate(runs)},
        tasks=tasks,
        pictures=_by_section(pictures),
        scores=_score_rows(tables["scores"], logs.headline, runs, tasks),
        tables={name: table.to_dicts() for name, table in tables.items() if name != "solved_by"},
        table_names=list(tables),
        notes=logs.notes,
        headline=logs.headline,
        index_json=script_json(index),
        has_samples=bool(index["tasks"]),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=digest,
        date=date.today().isoformat(),
        samples=logs.samples.height,
    )  # fmt: skip
    path = out / "report.html"
    atomic_write_text(path, page)
    return path


def _environment() -> Any:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"percent": _percent, "number": _number, "p_value": _p_value, "points": _points}
    # Only our own files pass unescaped: style, script, and SVG that vl-convert escaped.
    environment.filters["ours"] = Markup
    return environment


def _by_section(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    sections: dict[str, list[Picture]] = {name: [] for name in ("scores", "agreement", "coordinates", "calibration")}
    for picture in pictures:
        sections[picture.section].append(picture)
    return sections


def _score_rows(
    scores: pl.DataFrame, headline: Mapping[str, str], runs: Sequence[str], tasks: Sequence[str]
) -> list[dict[str, Any]]:
    """The headline metric of each task and run beside its blind baseline."""
    found = {(row["task"], row["run"], row["condition"], row["metric"]): row for row in scores.to_dicts()}
    rows = []
    for task in tasks:
        metric = headline.get(task, "")
        for run in runs:
            clean = found.get((task, run, "clean", metric))
            if clean is not None:
                rows.append({"clean": clean, "swap": found.get((task, run, "swap", metric))})
    return rows


def _missing(value: Any) -> bool:
    return value is None or value != value


def _percent(value: Any, digits: int = 1) -> str:
    return _NONE if _missing(value) else f"{100 * value:.{digits}f}".replace("-", _MINUS)


def _points(value: Any) -> str:
    return _NONE if _missing(value) else f"{100 * value:+.1f}".replace("-", _MINUS)


def _number(value: Any, digits: int = 2) -> str:
    return _NONE if _missing(value) else f"{value:,.{digits}f}".replace("-", _MINUS)


def _p_value(value: Any) -> str:
    if _missing(value):
        return _NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"

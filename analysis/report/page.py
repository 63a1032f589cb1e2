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
from vlm_backbones.analysis.report.changes import Changes, find_changes
from vlm_backbones.analysis.report.explorer import script_json, write_explorer
from vlm_backbones.analysis.report.groups import score_letters
from vlm_backbones.analysis.report.pictures import legible, render_plans
from vlm_backbones.analysis.report.rows import read_rows
from vlm_backbones.analysis.report.section_agreement import plan_agreement
from vlm_backbones.analysis.report.section_calibration import plan_calibration
from vlm_backbones.analysis.report.section_coordinates import plan_coordinates
from vlm_backbones.analysis.report.section_inside import plan_inside
from vlm_backbones.analysis.report.section_scores import plan_scores
from vlm_backbones.analysis.report.sweep import read_sweep
from vlm_backbones.analysis.report.templating import page_template
from vlm_backbones.analysis.report.verdict import write_verdict
from vlm_backbones.analysis.report.view import View, look_at
from vlm_backbones.analysis.samples import Logs
from vlm_backbones.cache import atomic_write_text

_HERE = Path(__file__).parent
_SCRIPTS = ("page.js", "explorer.js")
_LONGEST_VERDICT = 4000
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
    inline_images: bool = False,
    seed: int = 0,
) -> Path:
    """Write OUT/report.html with OUT/report_data, OUT/charts and OUT/verdict.txt beside it; return the page's path.

    With `inline_images` the page itself holds the samples and their images and links to no file: it can be sent alone.
    """
    view = look_at(logs, tables, runs, tasks, seed)
    letters = score_letters(view.headline(), tables["agreement"], view.runs)
    changes = find_changes(view)
    verdict = write_verdict(view, changes, find_changes(view, is_best=True))
    explorer = write_explorer(logs, runs, tasks, out, inline_images=inline_images)
    index = explorer.index | {"colors": {run: view.colors.name(run) for run in runs}}
    script = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    page = page_template("report.html.j2", _filters()).render(
        title=title,
        verdict=verdict,
        certificate=read_certificate(study_dir),
        deviations=deviations,
        sweep=read_sweep(study_dir),
        view=view,
        pictures=_draw(view, changes, letters, out),
        rows=read_rows(view, letters),
        notes=logs.notes,
        headline=logs.headline,
        index_json=script_json(index),
        explorer=explorer,
        is_alone=inline_images,
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        date=date.today().isoformat(),
    )  # fmt: skip
    path = out / "report.html"
    atomic_write_text(path, page)
    atomic_write_text(out / "verdict.txt", f"{legible(str(verdict), _LONGEST_VERDICT)}\n")
    return path


def _draw(view: View, changes: Changes | None, letters: Mapping[tuple[str, str], str], out: Path) -> dict[str, Any]:
    """Section -> its pictures, and what a section must say beside them."""
    plans = plan_scores(view, changes, letters)
    left_out: dict[str, list[str]] = {}
    for task in view.tasks:
        plans += plan_agreement(view, task)
        curves, left_out[task] = plan_calibration(view, task)
        plans += curves + plan_coordinates(view, task)
    plans += plan_inside(view)
    sections: dict[str, Any] = {"types_left_out": left_out}
    for name in ("scores", "agreement", "calibration", "coordinates", "inside"):
        sections[name] = []
    for picture in render_plans(plans, out):
        sections[picture.section].append(picture)
    return sections


def _filters() -> dict[str, Any]:
    return {
        "percent": _percent,
        "number": _number,
        "p_value": _p_value,
        "points": _points,
        "whole": _whole,
        "between": _between,
    }


def _missing(value: Any) -> bool:
    return value is None or value != value


def _percent(value: Any, digits: int = 1) -> str:
    return _NONE if _missing(value) else f"{100 * value:.{digits}f}".replace("-", _MINUS)


def _points(value: Any) -> str:
    return _NONE if _missing(value) else f"{100 * value:+.1f}".replace("-", _MINUS)


def _number(value: Any, digits: int = 2) -> str:
    return _NONE if _missing(value) else f"{value:,.{digits}f}".replace("-", _MINUS)


def _between(low: Any, high: Any, kind: str | int) -> str:
    """[low, high] as percent, points, or a number with so many digits."""
    if _missing(low) or _missing(high):
        return "(interval not defined)"
    named = {"percent": _percent, "points": _points}
    ends = (_number(end, kind) if isinstance(kind, int) else named[kind](end) for end in (low, high))
    return f"[{', '.join(ends)}]"


def _whole(value: Any) -> str:
    return _NONE if _missing(value) else f"{value:,}"


def _p_value(value: Any) -> str:
    if _missing(value):
        return _NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"

"""Every chart of the reports as it was last looked at: its marks, encodings and columns, without the rows.

A chart that changes is looked at again; then build/charts.json, which the test writes, takes this one's place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlm_backbones.analysis import analyze
from vlm_backbones.analysis.leaderboard.write import write_leaderboard
from vlm_backbones.analysis.report import pictures
from vlm_backbones.analysis.report.palette import CHART_CONFIG
from vlm_backbones.analysis.report.pictures import render_plans
from vlm_backbones.analysis.report.section_inside import plan_inside

from .test_report_pictures import NEW, OLD, inside_tables, view_of

LOOKED_AT = Path(__file__).with_name("charts.json")
BUILT = Path(__file__).parents[2] / "build" / "charts.json"


@pytest.fixture(scope="module")
def charts(tmp_path_factory: pytest.TempPathFactory, make: SimpleNamespace) -> list[dict[str, Any]]:
    """The charts of a whole report, of the states' sections and of the shipped leaderboard; none is drawn."""
    out, specs = tmp_path_factory.mktemp("charts"), list[dict[str, Any]]()

    def gather(given: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
        specs.extend(given)
        return [('<svg style="max-width:100px"></svg>', b"")] * len(given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw_all", gather)
        analyze([make.study(out / "study", docs=60)], out / "report", bootstrap=100)
        render_plans(plan_inside(view_of(inside_tables(), [OLD, NEW], ["t"])), out / "inside")
        write_leaderboard(
            ["vip-llava-study"], out / "board", runs={}, benchmarks=[], cluster_key=None, score_key=None,
            bootstrap=100, seed=0,
        )  # fmt: skip
    return specs


def test_charts_are_those_that_were_looked_at(charts: list[dict[str, Any]]) -> None:
    found = [{"config": CHART_CONFIG}, *map(without_rows, charts)]
    if found != json.loads(LOOKED_AT.read_text(encoding="utf-8")):
        BUILT.parent.mkdir(exist_ok=True)
        BUILT.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(LOOKED_AT.read_text(encoding="utf-8")), f"look at the report, then copy {BUILT}"


def test_every_field_of_a_chart_is_a_column_of_its_data(charts: list[dict[str, Any]]) -> None:
    assert len(charts) > 30
    for chart in charts:
        columns = {name for rows in chart["datasets"].values() for row in rows for name in row}
        named = [value for key, value in walk(chart) if key == "as"]
        made = {name for value in named for name in ([value] if isinstance(value, str) else value)}
        wanted = {value for key, value in walk(chart) if key == "field" and isinstance(value, str)}
        assert wanted <= columns | made, f"{wanted - columns - made} of {chart.get('title')}"


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, at any depth, but for rows."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key != "datasets":
                yield key, part
                yield from walk(part)
    elif isinstance(value, list):
        for part in value:
            yield from walk(part)


def without_rows(chart: dict[str, Any]) -> dict[str, Any]:
    """Return a chart with the columns of its data in place of the rows."""
    datasets = chart.get("datasets", {})
    columns = sorted([sorted({name for row in rows for name in row}) for rows in datasets.values()])
    text = json.dumps({key: part for key, part in chart.items() if key not in ("datasets", "config")}, sort_keys=True)
    for number, name in enumerate(datasets):
        text = text.replace(name, f"data {number}")
    return {**json.loads(text), "columns": columns}

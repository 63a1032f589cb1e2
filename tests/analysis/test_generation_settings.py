"""Runs that were asked with other generation settings are no fair comparison, and the report says so."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlm_backbones.analysis import analyze
from vlm_backbones.analysis.samples import load_logs

USUAL: dict[str, Any] = {"max_new_tokens": 16, "temperature": 0.0, "until": ["\n\n"]}
NAMES = {
    "now": ("20260101_120000_samples_vqa.jsonl", "20260101_120000_results.json"),
    "before": ("samples_vqa_2026-01-01T12-00-00.123456.jsonl", "results_2026-01-01T12-00-00.123456.json"),
}


def write(folder: Path, make: SimpleNamespace, settings: Any, names: tuple[str, str] = NAMES["now"]) -> None:
    """A run's log, and the results beside it."""
    rows = [make.row(doc, "a", "a" if doc % 2 else "b", float(doc % 2)) for doc in range(30)]
    folder.mkdir(parents=True)
    (folder / names[0]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    results = {"results": {"vqa": {}}, "configs": {"vqa": {"generation_kwargs": settings}}}
    (folder / names[1]).write_text(json.dumps(results), encoding="utf-8")


def said(folder: Path) -> list[str]:
    return [note for note in load_logs([folder]).notes if "generation settings" in note]


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_settings_that_differ_are_said(tmp_path: Path, make: SimpleNamespace, names: tuple[str, str]) -> None:
    write(tmp_path / "logs" / "a", make, USUAL, names)
    write(tmp_path / "logs" / "b", make, USUAL | {"max_new_tokens": 1, "until": "zzz"}, names)
    assert said(tmp_path / "logs") == [
        "vqa: the runs were asked with other generation settings, which are no property of the models: "
        'a max_new_tokens=16, until=["\\n\\n"]; b max_new_tokens=1, until="zzz". Evaluate them alike.'
    ]
    page = analyze([tmp_path / "logs"], out=tmp_path / "out", bootstrap=100).read_text(encoding="utf-8")
    assert "the runs were asked with other generation settings" in page


@pytest.mark.parametrize("other", [USUAL, dict(reversed(USUAL.items())), None, "no settings"])
def test_settings_that_are_alike_or_unknown_are_not(tmp_path: Path, make: SimpleNamespace, other: Any) -> None:
    write(tmp_path / "logs" / "a", make, USUAL)
    write(tmp_path / "logs" / "b", make, other)
    assert said(tmp_path / "logs") == []
    for path in tmp_path.rglob("*_results.json"):
        path.write_text("[")
    assert said(tmp_path / "logs") == []


def test_results_that_are_no_file_are_neither_waited_for_nor_read_without_end(
    tmp_path: Path, make: SimpleNamespace
) -> None:
    for run in ("a", "b"):
        write(tmp_path / run, make, USUAL)
        (tmp_path / run / NAMES["now"][1]).unlink()
    os.mkfifo(tmp_path / "a" / NAMES["now"][1])
    (tmp_path / "b" / NAMES["now"][1]).symlink_to("/dev/zero")
    assert said(tmp_path) == []

"""Data of the sample explorer: script files beside the page, loaded when a task is opened, never fetched."""

from __future__ import annotations

__all__ = ["write_explorer"]

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from vlm_backbones.analysis.pairing import pair_runs
from vlm_backbones.analysis.samples import Logs
from vlm_backbones.cache import atomic_write_text, staged_path

_CHUNK = 2000
_LONGEST = 4000


def write_explorer(logs: Logs, runs: Sequence[str], tasks: Sequence[str], out: Path) -> dict[str, Any]:
    """Write OUT/report_data/*.js and return the index that the page holds.

    Images come from the runs' `media` folders: inside OUT they are linked where they are, else copied beside the page.
    """
    clean = logs.samples.filter(pl.col("condition") == "clean")
    media = _Media([info.run_dir / "media" for info in logs.runs.values() if info.run_dir], out)
    index: dict[str, Any] = {"runs": list(runs), "tasks": []}
    for number, task in enumerate(tasks):
        part = clean.filter(pl.col("task") == task)
        if not part.height:
            continue
        present = [run for run in runs if run in set(part["run"])]
        documents = _documents(part, present, media)
        files = []
        for start in range(0, len(documents), _CHUNK):
            name = f"report_data/samples-{number}-{start // _CHUNK}.js"
            # The page asks for files by order, so they carry numbers and no name that a log could choose.
            text = f"vlmSamples({number},{start // _CHUNK},{script_json(documents[start : start + _CHUNK])});\n"
            atomic_write_text(out / name, text)
            files.append(name)
        types = sorted({document["y"] for document in documents if document["y"]})
        entry = {"id": number, "name": task, "runs": present, "types": types, "n": len(documents), "files": files}
        index["tasks"].append(entry)
    index["media"] = media.folders
    return index


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: ASCII only, and no < > & to end the element or start a comment."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _documents(part: pl.DataFrame, runs: list[str], media: _Media) -> list[dict[str, Any]]:
    paired = pair_runs(part, runs)
    columns = {
        name: part[name].to_list()
        for name in [
            "doc_id",
            "question",
            "target",
            "question_type",
            "image_key",
            "answer",
            "score",
            "confidence",
            "confidence_kind",
        ]
    }
    documents = []
    for rows in paired.rows.T.tolist():
        first = next(row for row in rows if row >= 0)
        document = {
            "i": columns["doc_id"][first],
            "q": _cut(columns["question"][first]),
            "t": _cut(columns["target"][first]),
        }
        document |= {"y": columns["question_type"][first], "m": media.place(columns["image_key"][first])}
        document["r"] = [_cell(columns, row) if row >= 0 else None for row in rows]
        documents.append(document)
    return sorted(documents, key=lambda document: (len(document["i"]), document["i"]))


def _cell(columns: Mapping[str, list[Any]], row: int) -> list[Any]:
    """[answer, score, confidence, its kind] of one run."""
    numbers = (columns[name][row] for name in ("score", "confidence"))
    score, confidence = (None if x is None or x != x else round(x, 4) for x in numbers)
    return [_cut(columns["answer"][row] or ""), score, confidence, columns["confidence_kind"][row]]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} [... {len(text) - _LONGEST:,} more characters]"


class _Media:
    """Where the image of a key lies, as the page must address it: [folder number, key]."""

    def __init__(self, folders: Sequence[Path], out: Path) -> None:
        self._known: dict[str, int] = {}
        self._sources: list[Path] = []
        self._out = out
        self.folders: list[str] = []
        for folder in dict.fromkeys(path.resolve() for path in folders if path.is_dir()):
            number = self._add(folder)
            for entry in os.scandir(folder):
                if entry.name.endswith(".webp"):
                    self._known.setdefault(entry.name[:-5], number)

    def _add(self, folder: Path) -> int:
        self._sources.append(folder)
        inside = folder.is_relative_to(self._out.resolve())
        self.folders.append(folder.relative_to(self._out.resolve()).as_posix() if inside else "report_data/media")
        return len(self.folders) - 1

    def place(self, key: str | None) -> list[Any] | None:
        if key is None or key not in self._known:
            return None
        number = self._known[key]
        if self.folders[number] == "report_data/media":
            target = self._out / "report_data" / "media" / f"{key}.webp"
            if not target.exists():
                with staged_path(target) as staged:
                    shutil.copyfile(self._sources[number] / f"{key}.webp", staged)
        return [number, key]

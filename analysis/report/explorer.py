"""Data of the sample explorer: parts beside the page, loaded when they are looked at, never fetched.

A task has a summary (type, right or wrong, confidence of every question: enough to filter and sort) and parts of 1,000
questions with their texts. Texts repeat, so a part lists each once and refers to it by number.
"""

from __future__ import annotations

__all__ = ["Explorer", "script_json", "write_explorer"]

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from vlm_backbones.analysis.pairing import pair_runs
from vlm_backbones.analysis.report.media import Media
from vlm_backbones.analysis.samples import Logs
from vlm_backbones.cache import atomic_write_text

PART = 1000
_LONGEST = 4000


@dataclass(frozen=True)
class Explorer:
    """What the page holds: the index, and with inline images also every part and image, by element id."""

    index: dict[str, Any]
    parts: dict[str, str]
    images: dict[str, str]


def write_explorer(
    logs: Logs, runs: Sequence[str], tasks: Sequence[str], out: Path, *, inline_images: bool = False
) -> Explorer:
    """Write OUT/report_data/*.js, or with `inline_images` nothing: then the page alone holds samples and images."""
    media = Media([info.run_dir / "media" for info in logs.runs.values() if info.run_dir], out, inline=inline_images)
    index: dict[str, Any] = {"runs": list(runs), "tasks": [], "part": PART}
    inlined: dict[str, str] = {}

    def put(name: str, value: Any) -> None:
        # The page asks for parts by number: no name that a log could choose.
        if inline_images:
            inlined[name] = script_json(value)
        else:
            atomic_write_text(out / "report_data" / f"{name}.js", f'vlmPart("{name}",{script_json(value)});\n')

    for number, task in enumerate(tasks):
        part = logs.samples.filter(task=task, condition="clean")
        if not part.height:
            continue
        present = [run for run in runs if run in set(part["run"])]
        documents = _Documents(part, present)
        types = sorted(set(part["question_type"].drop_nulls()))
        put(f"task-{number}", documents.summary(types))
        for start in range(0, len(documents), PART):
            put(f"task-{number}-{start // PART}", documents.texts(start, media))
        shown = [_cut(name, 80) for name in types]
        index["tasks"].append({"id": number, "name": task, "runs": present, "types": shown, "n": len(documents)})
    index["media"] = media.folders
    return Explorer(index, inlined, media.inlined)


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: ASCII only, and no < > & to end the element or start a comment."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class _Documents:
    """The questions of a task in the order of their ids, with each run's row."""

    def __init__(self, part: pl.DataFrame, runs: list[str]) -> None:
        rows = pair_runs(part, runs).rows.T
        names = ["doc_id", "question", "target", "question_type", "image_key", "answer", "score", "confidence"]
        self._columns = {name: part[name].to_list() for name in names}
        ids = self._columns["doc_id"]
        first = [next(row for row in of if row >= 0) for of in rows.tolist()]
        order = sorted(range(len(first)), key=lambda i: (len(ids[first[i]]), ids[first[i]]))
        self._first = [first[i] for i in order]
        self._rows = rows[order].T.tolist()  # (runs, documents)

    def __len__(self) -> int:
        return len(self._first)

    def summary(self, types: Sequence[str]) -> dict[str, Any]:
        """Type number (-1: none), a letter for right, wrong or no score, confidence in thousandths (-1: none)."""
        place = {name: number for number, name in enumerate(types)}
        kinds, score, sure = (self._columns[name] for name in ("question_type", "score", "confidence"))
        return {
            "type": [place.get(kinds[row], -1) for row in self._first],
            "right": ["".join("-" if row < 0 else _letter(score[row]) for row in rows) for rows in self._rows],
            "sure": [[-1 if row < 0 else _thousandths(sure[row]) for row in rows] for rows in self._rows],
        }

    def texts(self, start: int, media: Media) -> dict[str, Any]:
        """One part: `words` once each; doc_id, question, target and each run's answer as numbers into them."""
        words: dict[str, int] = {}

        def number(text: str | None) -> int:
            return words.setdefault(_cut(text or ""), len(words))

        first = self._first[start : start + PART]
        by_run = [rows[start : start + PART] for rows in self._rows]
        part: dict[str, Any] = {
            name: [number(self._columns[column][row]) for row in first]
            for name, column in (("id", "doc_id"), ("question", "question"), ("target", "target"))
        }
        answers, scores = self._columns["answer"], self._columns["score"]
        part["answer"] = [[number(answers[row]) if row >= 0 else -1 for row in rows] for rows in by_run]
        part["score"] = [[_rounded(scores[row]) if row >= 0 else None for row in rows] for rows in by_run]
        part["image"] = [media.place(self._columns["image_key"][row]) for row in first]
        return part | {"words": list(words)}


def _letter(score: float | None) -> str:
    return "-" if score is None or score != score else "1" if score >= 0.5 else "0"


def _thousandths(confidence: float | None) -> int:
    return -1 if confidence is None or confidence != confidence else round(1000 * confidence)


def _rounded(score: float | None) -> float | None:
    return None if score is None or score != score else round(score, 4)


def _cut(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else f"{text[:longest]} [... {len(text) - longest:,} more characters]"

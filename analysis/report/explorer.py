"""Data of the sample explorer: parts beside the page, loaded when they are looked at, never fetched.

A task has a summary (type, right or wrong, confidence of every question: enough to filter and sort) and parts of 1,000
questions with their texts. Texts repeat, so a part lists each once and refers to it by number.
"""

from __future__ import annotations

__all__ = ["Explorer", "script_json", "write_explorer"]

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from vlm_backbones.analysis._computed_scores import is_coordinate_task, is_place, with_places
from vlm_backbones.analysis.confidences import primary_kind
from vlm_backbones.analysis.exact_words import is_graded
from vlm_backbones.analysis.pairing import Paired
from vlm_backbones.analysis.report.media import Media
from vlm_backbones.analysis.report.option_letters import lettered
from vlm_backbones.analysis.samples import Logs
from vlm_backbones.analysis.table_coordinates import coordinate_rows
from vlm_backbones.cache import atomic_write_text

PART = 1000
_MOST = 100_000
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

    of_task = {of.task: of for of in logs.clean}
    for number, task in enumerate(tasks):
        if task not in of_task:
            continue
        present = [run for run in runs if run in of_task[task].runs]
        part = of_task[task].part
        documents = _Documents(part, of_task[task].pairs(present))
        types = sorted(part["question_type"].drop_nulls().unique())
        put(f"task-{number}", documents.summary(types))
        for start in range(0, len(documents), PART):
            put(f"task-{number}-{start // PART}", documents.texts(start, media))
        shown = [_cut(name, 80) for name in types]
        entry = {"id": number, "name": task, "runs": present, "types": shown, "n": len(documents)}
        entry["exact"] = is_graded(part) and primary_kind(part) != "option"
        index["tasks"].append(entry | {"asked": documents.asked})
    index["media"] = media.folders
    return Explorer(index, inlined, media.inlined)


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: ASCII only, and no < > & to end the element or start a comment."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class _Documents:
    """The questions of a task in the order of their ids, with each run's row; at most 100,000."""

    def __init__(self, part: pl.DataFrame, paired: Paired) -> None:
        rows = paired.rows  # (runs, questions), -1 where a run has none
        first = np.where(rows >= 0, rows, rows.max() + 1).min(axis=0)
        ids = part["doc_id"].gather(first).cast(pl.String)
        keys = pl.DataFrame({"length": ids.str.len_chars(), "id": ids})
        order = keys.select(pl.arg_sort_by("length", "id")).to_series().to_numpy()
        self.asked = len(order)
        shown = rows[:, order[:_MOST]]
        kept = np.unique(shown[shown >= 0])
        self._part = lettered(part[kept])
        self._has_places = is_coordinate_task(self._part["target"])
        self._first = np.searchsorted(kept, first[order[:_MOST]])
        self._rows = np.where(shown >= 0, np.searchsorted(kept, shown), -1)

    def __len__(self) -> int:
        return int(self._first.size)

    def summary(self, types: Sequence[str]) -> dict[str, Any]:
        """Type number (-1: none), a letter for right, wrong or neither, confidence in thousandths (-1: none)."""
        place = {name: number for number, name in enumerate(types)}
        kinds = self._part["question_type"].gather(self._first)
        correct = self._part["correct"].cast(pl.Float64).fill_null(math.nan).to_numpy()
        letters = np.where(np.isnan(correct), "-", np.where(correct == 1, "1", "0"))
        sure = (1000 * self._part["confidence"].fill_null(math.nan)).round().fill_nan(-1).cast(pl.Int64).to_numpy()
        return {
            "type": [place.get(kind, -1) for kind in kinds],
            "right": ["".join(np.where(rows < 0, "-", letters[rows])) for rows in self._rows],
            "sure": [np.where(rows < 0, -1, sure[rows]).tolist() for rows in self._rows],
        }

    def texts(self, start: int, media: Media) -> dict[str, Any]:
        """One part: `words` once each; doc_id, question, target and each run's answer as numbers into them."""
        words: dict[str, int] = {}

        def number(text: str | None) -> int:
            return words.setdefault(_cut(text or ""), len(words))

        own = self._part[self._first[start : start + PART].tolist()]
        part: dict[str, Any] = {
            name: [number(text) for text in own[column]]
            for name, column in (("id", "doc_id"), ("question", "question"), ("target", "target"))
        }
        part |= {"image": [media.place(key) for key in own["image_key"]], "answer": [], "score": []}
        for rows in self._rows[:, start : start + PART]:
            of_run = self._part[np.maximum(rows, 0).tolist()]
            logged = (rows >= 0).tolist()
            answers, scores = of_run["answer"], of_run["score"].fill_nan(None).round(4)
            part["answer"].append([number(text) if has else -1 for text, has in zip(answers, logged, strict=True)])
            part["score"].append([score if has else None for score, has in zip(scores, logged, strict=True)])
            if self._has_places:
                part.setdefault("km", []).append(_errors_km(of_run))
        return part | {"words": list(words)}


def _errors_km(part: pl.DataFrame) -> list[float | None]:
    """How far off each answer is; None where it or its target holds no coordinates."""
    known, rows = map(is_place, part["target"]), iter(coordinate_rows(with_places(part)))
    found = (next(rows) if has else None for has in known)
    return [round(float(rungs["error_km"]), 1) if rungs and rungs["parsed"] else None for rungs in found]


def _cut(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else f"{text[:longest]} [... {len(text) - longest:,} more characters]"

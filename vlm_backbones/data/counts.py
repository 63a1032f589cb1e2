"""What a study's training files hold, counted: examples, turns, pictures by folder, region records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.conversations import Example
from vlm_backbones.errors import DataError
from vlm_backbones.study import Data

__all__ = ["check_captions", "count_data"]


def count_data(data: Data, stages: Mapping[str, Sequence[Example]]) -> dict[str, dict[str, Any]]:
    """Return, by stage, how many examples of which kind the files hold, beside what the study expects of them."""
    counts: dict[str, dict[str, Any]] = {}
    for name, examples in stages.items():
        folders = Counter(_picture_folder(example) for example in examples if example.image is not None)
        regions = Counter(example.region for example in examples if example.region)
        notes = Counter(note for example in examples for note in example.notes)
        counts[name] = {
            "files": ", ".join(str(path) for path in data.files_for(name)) or "the pocket data",
            "examples": len(examples),
            "turns": sum(len(example.turns) for example in examples),
            "with image": sum(folders.values()),
            "text only": len(examples) - sum(folders.values()),
        }
        counts[name] |= {"pictures in": dict(folders.most_common())} if set(folders) - {""} else {}
        counts[name] |= {"region records": dict(sorted(regions.items()))} if regions else {}
        counts[name] |= dict(sorted(notes.items()))
        if name in data.expected:
            counts[name]["expected examples"] = data.expected[name].examples
    return counts


def _picture_folder(example: Example) -> str:
    """Return the first folder of a picture's path, seen from its data file; empty where there is none."""
    path = example.image.path if example.image else None
    root = Path(example.turns[0].place.rpartition(" row ")[0]).parent.resolve()
    if path is None or not path.is_relative_to(root):
        return ""
    return path.relative_to(root).parts[0] if len(path.relative_to(root).parts) > 1 else ""


def check_captions(examples: Sequence[Example], stage: str, bad: BadRows) -> None:
    """Gather the examples that the `plain` format cannot train on: it is one picture and its caption."""
    for example in examples:
        with bad.gather():
            if example.image is None or (len(example.turns) > 1 and not example.independent):
                found = "no picture" if example.image is None else f"{len(example.turns)} turns"
                raise DataError(
                    f"{example.turns[0].place}: {found}, but the chat_format plain of {stage} takes one picture and "
                    "its caption. Drop the row or name another chat_format."
                )

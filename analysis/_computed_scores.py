"""Correctness from target and answer, where a log has no score: options, letters, coordinates."""

from __future__ import annotations

__all__ = ["CHOICE", "answer_letter", "computed_score", "is_coordinate_task", "is_place", "with_places"]

import math
import re
from typing import Any

import polars as pl

from vlm_backbones.analysis._option_column import Options
from vlm_backbones.analysis._values import Record
from vlm_backbones.json_text import parse_json
from vlm_backbones.scoring import coordinate_rungs

CHOICE = "computed: most probable option = target"
_LETTERS = "computed: letter of the answer = target"
_PLACE = "computed: within 100 km of the target"

# Under which tasks log the answer as they understood it, or as it was said.
_ANSWERS = ("parsed_pred", "pred_answer", "prediction", "pred")
_LOOKED_AT = 100

# "A man", "A because": a letter that a word follows is an answer where the word cannot follow an article.
_ENDS = r"(?=\W*$|[).:,;\n]|\s+(?:because|since|as|is|it|for|or|and|would|\W))"
_ALONE = re.compile(r"\W*([A-H])\W*", re.IGNORECASE)
_FIRST = re.compile(rf"\W*\(?(?:([A-H])[).:]|([A-H]){_ENDS}|([B-H])\s)")
_LOWER_FIRST = re.compile(r"\s*\(?([a-h])[).:]")
_SAID = re.compile(
    r"\b(?:answer|option|choice|think|choose|chose|pick|select|believe|say)\b(?:\s+(?:is|it|it's|its|that|would|be|"
    rf"should|the|correct|best|right|answer|option|choice))*\W*\(?(?-i:(?:([A-H]){_ENDS}|([B-H])\b))",
    re.IGNORECASE,
)


def computed_score(record: Record, answer: str, options: Options) -> tuple[float | None, str | None]:
    """Correctness and how it was found; no score for a target that is none of the options."""
    target = str(record.get("target", "")).strip()
    if options:
        names = {_fold(name) for name in options}
        return (float(_fold(answer) == _fold(target)) if _fold(target) in names else None), CHOICE
    if is_place(target):
        return float(coordinate_rungs(answer, target)["within_100_km"]), _PLACE
    target, answer = _task_pair(record) or (target, answer)
    letter = re.fullmatch(r"\(?([A-J])\)?", target)
    if letter:
        said = answer if re.fullmatch(r"[A-J]", answer) else answer_letter(answer)
        return float(said == letter[1]), _LETTERS
    return None, None


def _task_pair(record: Record) -> tuple[str, str] | None:
    """Target and answer as the task's own mapping has them: MMMU's answer is parsed there, MMBench's is not."""
    found = None
    for value in record.values():
        if isinstance(value, dict) and isinstance(value.get("answer"), str):
            said = next((value[name] for name in _ANSWERS if name in value), None)
            said = said[0] if isinstance(said, list) and said else said
            if isinstance(said, str):
                found = value["answer"].strip(), said.strip()
    return found


def answer_letter(answer: str) -> str | None:
    """Return the option's letter that an answer names; None where it names none.

    Examples
    --------
    >>> [answer_letter(text) for text in ("B. a dog", "The answer is (C).", "I think C", "A man is riding")]
    ['B', 'C', 'C', None]
    """
    found = _ALONE.fullmatch(answer) or _FIRST.match(answer) or _LOWER_FIRST.match(answer) or _SAID.search(answer)
    return next(letter for letter in found.groups() if letter).upper() if found else None


def is_coordinate_task(targets: pl.Series) -> bool:
    """Whether most of a task's targets are places, by the first hundred."""
    some = targets.head(_LOOKED_AT)
    return 2 * sum(map(is_place, some)) > some.len()


def with_places(part: pl.DataFrame) -> pl.DataFrame:
    """The samples whose target is a place."""
    return part.filter(pl.Series(list(map(is_place, part["target"])), dtype=pl.Boolean))


def is_place(target: str | None) -> bool:
    """Whether a target is a JSON object with numbers `lat` and `lon`."""
    if not target or not target.lstrip().startswith("{"):
        return False
    try:
        value: Any = parse_json(target)
        return all(math.isfinite(float(value[key])) for key in ("lat", "lon"))
    except (ValueError, TypeError, KeyError):
        return False


def _fold(text: str) -> str:
    return text.strip().rstrip(".").casefold()

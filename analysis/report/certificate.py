"""The certificate, read for the first page; foreign logs have none."""

from __future__ import annotations

__all__ = ["Certificate", "Line", "read_certificate"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_backbones.analysis.report.certificate_words import fact_name, fact_value
from vlm_backbones.errors import DataError
from vlm_backbones.hashes import read_sealed_json


@dataclass(frozen=True)
class Line:
    """One fact: its name, why it may vary (empty where it is equal), and who has which value."""

    name: str
    why: str
    values: dict[str, str]


@dataclass(frozen=True)
class Certificate:
    """What was held equal, what varies and why, and what makes the comparison unfair."""

    equal: list[Line] = field(default_factory=list)
    varies: list[Line] = field(default_factory=list)
    confounds: list[str] = field(default_factory=list)


def read_certificate(study_dir: Path | None) -> Certificate | None:
    """Read `certificate.json` of a study; None where there is none.

    Raises
    ------
    DataError
        If the file is not a certificate, or not as it was written.
    """
    file = study_dir / "certificate.json" if study_dir else None
    if file is None or not file.is_file():
        return None
    content = read_sealed_json(file)
    if content is None:
        raise DataError(
            f"{file} is not a certificate as it was written: it is damaged or was edited. Run `vlm-backbones "
            "study check` again."
        )
    try:
        equal = [Line(fact_name(name), "", _values(value)) for name, value in content.get("equal", {}).items()]
        backbones: Mapping[str, Any] = content.get("backbones", {})
        same, varies = _compare(backbones, content.get("varies", {}))
        return Certificate(equal + same, varies, [str(problem) for problem in content.get("confounds", [])])
    except (AttributeError, TypeError) as error:
        raise DataError(f"{file} is not a certificate ({error}). Run `vlm-backbones study check` again.") from error


def _compare(backbones: Mapping[str, Any], reasons: Mapping[str, str]) -> tuple[list[Line], list[Line]]:
    """Facts of the backbones, apart by whether all have the same."""
    flat = {name: _flatten(facts) for name, facts in backbones.items()}
    same, varies = [], []
    for fact in dict.fromkeys(fact for facts in flat.values() for fact in facts):
        values = {name: fact_value(facts.get(fact)) for name, facts in flat.items()}
        if len(set(values.values())) == 1:
            same.append(Line(fact_name(fact), "", {"": next(iter(values.values()))}))
        else:
            why = next((text for key, text in reasons.items() if key in fact), "follows from the tokenizer")
            varies.append(Line(fact_name(fact), why, values))
    return same, varies


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{a: {b: 1}} -> {"a b": 1}; the word `stages` is left out, since the stage's own name follows.

    Which answers are cut is a hash, and says nothing where none are.
    """
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if name == "truncated_rows" and facts.get("truncated_answers") == 0:
            continue
        path = prefix if name == "stages" else f"{prefix} {name}".strip()
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, path)
        else:
            flat[path] = value
    return flat


def _values(value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(name): fact_value(part) for name, part in value.items()}
    return {"": fact_value(value)}

"""A row of a user's table of earthquakes -> a row of `seismic_description` and `seismic_coords`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_backbones.data.imports.question_rows import targets_of
from vlm_backbones.data.imports.tables import picture_of
from vlm_backbones.errors import DataError
from vlm_backbones.prompts import description_sentence

__all__ = ["COORDS_KINDS", "DESCRIPTION_KINDS", "FACTS", "build_event"]

Row = dict[str, Any]

FACTS = ("magnitude", "depth_km", "region", "quadrant", "max_intensity")
"""What a description states; together they make one."""

_NUMBERS = ("magnitude", "depth_km", "latitude", "longitude")
_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")
DESCRIPTION_KINDS = {
    "image": "image", "event_id": "text", "description": "text", "magnitude": "number", "depth_km": "number",
    "region": "text", "quadrant": "text", "max_intensity": "text", "image_id": "text", "targets": "text",
}  # fmt: skip
COORDS_KINDS = {
    "image": "image", "event_id": "text", "latitude": "number", "longitude": "number", "frame": "text",
    "image_id": "text", "targets": "text",
}  # fmt: skip


def build_event(given: Mapping[str, Any], place: str, root: Path) -> Row:
    """Return one event with the columns of both tasks, from its cells by role; missing facts are None, not judged.

    Raises
    ------
    DataError
        Naming `place`, where a value or the picture cannot be used.
    """
    picture = picture_of(given["image"], root, place)
    event: Row = {
        role: _number(value, role, place) if role in _NUMBERS else _text(value) for role, value in given.items()
    }
    event["image"] = {"bytes": picture, "path": None}
    event["image_id"] = event.get("image_id") or hashlib.sha256(picture).hexdigest()[:16]
    event["event_id"] = event.get("event_id") or place.rpartition(" row ")[2]
    for role, limit in (("latitude", 90.0), ("longitude", 180.0)):
        if role in given and (event[role] is None or abs(event[role]) > limit):
            raise DataError(f"{place}: {role} is {given[role]!r}, expected degrees from {-limit:g} to {limit:g}.")
    if event.get("max_intensity"):
        event["max_intensity"] = _roman(event["max_intensity"], place)
    event["description"] = event.get("description") or _sentence(event, "description" in given, place)
    known = {name: event.get(name) for name in (*FACTS, "latitude", "longitude")}
    stated = {name: value for name, value in known.items() if value is not None}
    event["targets"] = json.dumps(stated | json.loads(targets_of(given.get("targets"), place)), ensure_ascii=False)
    return event


def _sentence(event: Row, is_asked: bool, place: str) -> str | None:
    facts = {name: event.get(name) for name in FACTS}
    if all(value is not None for value in facts.values()):
        return description_sentence(**facts)  # type: ignore[arg-type]
    if is_asked:
        raise DataError(f"{place}: the description is empty. Fill it in or drop the row.")
    return None


def _number(value: Any, role: str, place: str) -> float | None:
    if value is None or str(value).strip() == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{place}: {role} is {value!r}, expected a number.")
    return number


def _text(value: Any) -> str | None:
    return str(value).strip() or None if value is not None and not isinstance(value, bytes | dict) else None


def _roman(text: str, place: str) -> str:
    """Return an intensity as the roman numeral that the task compares."""
    if text.upper() in _ROMAN:
        return text.upper()
    try:
        return _ROMAN[round(float(text)) - 1 if 0.5 <= float(text) <= 12.5 else 99]
    except (ValueError, IndexError):
        raise DataError(f"{place}: max_intensity is {text!r}, expected I to XII or 1 to 12.") from None

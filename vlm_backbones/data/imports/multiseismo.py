"""MultiSeismo's parquet -> the datasets of `seismic_description` and `seismic_coords`.

Which column means what is guessed from its name and shown; `--column ROLE=COLUMN` says otherwise.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.imports.tables import Table, picture_of, read_table
from vlm_backbones.data.imports.write import refuse_existing, save_split
from vlm_backbones.errors import ConfigError, DataError, nearest
from vlm_backbones.prompts import description_sentence

__all__ = ["ROLES", "Imported", "guess_columns", "import_multiseismo"]

Row = dict[str, Any]

ROLES: dict[str, tuple[str, ...]] = {
    "image": ("image", "shake_map", "shakemap", "map", "picture", "image_path", "intensity_map"),
    "event_id": ("event_id", "eventid", "usgs_id", "id"),
    "latitude": ("latitude", "lat", "epicenter_lat", "epicentre_lat", "epicenter_latitude"),
    "longitude": ("longitude", "lon", "lng", "long", "epicenter_lon", "epicentre_lon", "epicenter_longitude"),
    "description": ("description", "caption", "report", "summary", "text"),
    "magnitude": ("magnitude", "mag", "mw"),
    "depth_km": ("depth_km", "depth"),
    "region": ("region", "place", "location", "country"),
    "quadrant": ("quadrant",),
    "max_intensity": ("max_intensity", "maxmmi", "max_mmi", "mmi", "intensity"),
    "frame": ("frame", "map_window", "window"),
}
"""Role -> the names of columns that are taken for it, the first that exists."""

_NEEDED = {
    "seismic_description": ("image", "description"),
    "seismic_coords": ("image", "latitude", "longitude"),
}
_FACTS = ("magnitude", "depth_km", "region", "quadrant", "max_intensity")
_NUMBERS = ("magnitude", "depth_km", "latitude", "longitude")
_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")
_KINDS = {
    "seismic_description": {
        "image": "image", "event_id": "text", "description": "text", "magnitude": "number", "depth_km": "number",
        "region": "text", "quadrant": "text", "max_intensity": "text", "image_id": "text", "targets": "text",
    },
    "seismic_coords": {
        "image": "image", "event_id": "text", "latitude": "number", "longitude": "number", "frame": "text",
        "image_id": "text", "targets": "text",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """What an import wrote: role -> column, task -> rows."""

    columns: dict[str, str]
    counts: dict[str, int]


def guess_columns(columns: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Return role -> column: what the user says, else the first column of a name that is known for the role.

    Raises
    ------
    ConfigError
        If a role or a column does not exist.
    """
    for role, column in given.items():
        if role not in ROLES:
            raise ConfigError(f"--column {role}={column}: unknown role {role!r}.{nearest(role, ROLES)}")
        if column not in columns:
            raise ConfigError(f"--column {role}={column}: no such column.{nearest(column, columns)}")
    lowered = {name.lower(): name for name in reversed(columns)}
    found = dict(given)
    for role, names in ROLES.items():
        known = next((lowered[name] for name in names if name in lowered), None)
        if role not in found and known is not None:
            found[role] = known
    return {role: found[role] for role in ROLES if role in found}


def import_multiseismo(
    source: Path, out: Path, *, columns: Mapping[str, str] | None = None, split: str = "test"
) -> Imported:
    """Write OUT/seismic_description/SPLIT and OUT/seismic_coords/SPLIT; a task that lacks its columns is left out.

    Parameters
    ----------
    source
        Parquet, JSON lines or CSV; pictures inside, or files under its folder.
    columns
        Role -> column, where the name does not say it; roles are the keys of `ROLES`.
    split
        train, validation or test.

    Raises
    ------
    ConfigError, DataError
        If no task has its columns, rows are malformed (all are named), or the folders exist.
    """
    table = read_table(source)
    roles = guess_columns(table.columns, columns or {})
    tasks = [task for task, needed in _NEEDED.items() if _has(roles, task, needed)]
    if not tasks:
        needed = "; ".join(f"{task} needs {', '.join(names)}" for task, names in _NEEDED.items())
        raise DataError(
            f"{source} has the columns {', '.join(table.columns)}: {needed}. Say which with --column ROLE=COLUMN."
        )
    folders = {task: refuse_existing(out, task, split) for task in tasks}
    bad = BadRows()
    for place, row in table.rows():
        with bad.gather():
            _event(row, place, roles, source.parent)
    bad.refuse()
    counts = {
        task: save_split(folder, _rows(table, roles, _KINDS[task]), _KINDS[task]) for task, folder in folders.items()
    }
    return Imported(roles, counts)


def _has(roles: Mapping[str, str], task: str, needed: Sequence[str]) -> bool:
    """Whether the columns suffice; a description can be made of all five facts."""
    made = task == "seismic_description" and all(fact in roles for fact in _FACTS)
    return all(role in roles or (role == "description" and made) for role in needed)


def _rows(table: Table, roles: Mapping[str, str], kinds: Mapping[str, str]) -> Iterator[Row]:
    for place, cells in table.rows():
        event = _event(cells, place, roles, table.path.parent)
        yield {name: event.get(name) for name in kinds}


def _event(cells: Row, place: str, roles: Mapping[str, str], root: Path) -> Row:
    """Return one event with the columns of both tasks; missing facts are None and are not judged."""
    given = {role: cells.get(column) for role, column in roles.items()}
    picture = picture_of(given["image"], root, place)
    event: Row = {
        role: _number(value, role, place) if role in _NUMBERS else _text(value) for role, value in given.items()
    }
    event["image"] = {"bytes": picture, "path": None}
    event["image_id"] = hashlib.sha256(picture).hexdigest()[:16]
    event["event_id"] = event.get("event_id") or place.rpartition(" row ")[2]
    for role, limit in (("latitude", 90.0), ("longitude", 180.0)):
        if role in roles and (event[role] is None or abs(event[role]) > limit):
            raise DataError(f"{place}: {role} is {given[role]!r}, expected degrees from {-limit:g} to {limit:g}.")
    if event.get("max_intensity"):
        event["max_intensity"] = _roman(event["max_intensity"], place)
    event["description"] = event.get("description") or _sentence(event, roles, place)
    known = {name: event.get(name) for name in (*_FACTS, "latitude", "longitude")}
    event["targets"] = json.dumps({name: value for name, value in known.items() if value is not None})
    return event


def _sentence(event: Row, roles: Mapping[str, str], place: str) -> str | None:
    facts = {name: event.get(name) for name in _FACTS}
    if all(value is not None for value in facts.values()):
        return description_sentence(**facts)  # type: ignore[arg-type]
    if "description" in roles:
        raise DataError(f"{place}: the description is empty. Fill it in or drop the row.")
    return None


def _number(value: Any, role: str, place: str) -> float | None:
    if value is None or str(value).strip() == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
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

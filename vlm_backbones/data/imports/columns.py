"""Which column of a user's table means what: guessed from names, and shown; `--column ROLE=COLUMN` says otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vlm_backbones.errors import ConfigError, nearest

__all__ = ["ROLES", "Columns", "guess_columns"]

ROLES: dict[str, tuple[str, ...]] = {
    "image": ("image", "shake_map", "shakemap", "map", "picture", "image_path", "intensity_map", "file_name"),
    "image_id": ("image_id",),
    "question": ("question", "query", "prompt"),
    "answers": ("answers", "answer", "ground_truth", "label"),
    "options": ("options", "choices"),
    "question_type": ("question_type", "answer_type", "category"),
    "question_id": ("question_id", "qid", "id"),
    "paraphrase": ("paraphrase", "rephrased"),
    "event_id": ("event_id", "eventid", "usgs_id", "id"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng", "long"),
    "description": ("description", "caption", "report", "summary", "text"),
    "magnitude": ("magnitude", "mag", "mw"),
    "depth_km": ("depth_km", "depth"),
    "region": ("region", "place", "location", "country"),
    "quadrant": ("quadrant",),
    "max_intensity": ("max_intensity", "maxmmi", "max_mmi", "mmi", "intensity"),
    "frame": ("frame", "map_window", "window"),
    "targets": ("targets",),
}
"""Role -> the names of columns that are taken for it: the whole name first, then a name among a column's words."""

_OTHER_FACTS = frozenset(
    ("error", "err", "std", "stderr", "uncertainty", "sigma", "type", "source", "nst", "width", "height", "size",
     "count", "url", "hash", "id", "unit")
)  # fmt: skip
"""A column with one of these words says something about the fact, not the fact."""
_WHOLE_ONLY = frozenset(("id", "mw", "map", "text", "label", "window", "long"))
"""Names that say too little as one word among others."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@dataclass(frozen=True)
class Columns:
    """What each column was taken for: role -> column, the columns between which a role could not choose, the others."""

    found: dict[str, str]
    unclear: dict[str, list[str]]
    unused: list[str]

    def __str__(self) -> str:
        taken = ", ".join(f"{role}={column}" for role, column in self.found.items()) or "nothing"
        doubts = "".join(f"; {role} may be {' or '.join(names)}" for role, names in self.unclear.items())
        return f"taken: {taken}{doubts}; not used: {', '.join(self.unused) or 'none'}"


def guess_columns(columns: Sequence[str], roles: Iterable[str], given: Mapping[str, str]) -> Columns:
    """Return what the user says, else a column of a known name, else the only one with a known name among its words.

    Examples
    --------
    >>> guess_columns(["epicenterLat", "depthError", "depth"], ["latitude", "depth_km"], {}).found
    {'latitude': 'epicenterLat', 'depth_km': 'depth'}

    Raises
    ------
    ConfigError
        If a role or a column does not exist.
    """
    roles = list(roles)
    for role, column in given.items():
        if role not in roles:
            raise ConfigError(f"--column {role}={column}: unknown role {role!r}.{nearest(role, roles)}")
        if column not in columns:
            raise ConfigError(f"--column {role}={column}: no such column.{nearest(column, columns)}")
    found = dict(given)
    lowered = {name.lower(): name for name in reversed(columns)}
    for role in roles:
        whole = next((lowered[name] for name in ROLES[role] if name in lowered), None)
        if role not in found and whole is not None:
            found[role] = whole
    unclear = {}
    for role in (role for role in roles if role not in found):
        candidates = [name for name in columns if name not in found.values() and _has_a_name(name, ROLES[role])]
        if len(candidates) == 1:
            found[role] = candidates[0]
        elif candidates:
            unclear[role] = candidates
    ordered = {role: found[role] for role in roles if role in found}
    return Columns(ordered, unclear, [name for name in columns if name not in ordered.values()])


def _has_a_name(column: str, names: Iterable[str]) -> bool:
    """Whether one of the names stands among a column's words, and none that makes it another fact."""
    words = [word.lower() for word in _WORD.findall(column)]
    text = f"_{'_'.join(words)}_"
    return not _OTHER_FACTS.intersection(words) and any(
        f"_{name}_" in text for name in names if name not in _WHOLE_ONLY
    )

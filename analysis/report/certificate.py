"""The certificate and the runs' own records, read for the first page; each may be absent."""

from __future__ import annotations

__all__ = ["CertificateRow", "read_certificate"]

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_backbones.errors import DataError

_STATUS_KEYS = ("status", "verdict", "result", "state")
_NOTE_KEYS = ("note", "reason", "detail", "explanation", "message")
_GOOD = frozenset({"equal", "ok", "same", "pass", "passed", "true"})
_VARIES = frozenset({"varies", "explained", "differs", "declared", "note", "warning"})


@dataclass(frozen=True)
class CertificateRow:
    """One line of the certificate: `kind` is equal, varies or refused."""

    name: str
    kind: str
    note: str
    values: dict[str, str]


def read_certificate(study_dir: Path | None) -> list[CertificateRow]:
    """Return the lines of `certificate.json`; none where there is no certificate (foreign logs)."""
    file = study_dir / "certificate.json" if study_dir else None
    if file is None or not file.is_file():
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not valid JSON ({error}). Run `vlm-backbones study check` again.") from error
    rows = _checks(content)
    return sorted(rows, key=lambda row: ("refused", "varies", "equal").index(row.kind))


def _checks(content: Any) -> list[CertificateRow]:
    """Accept a list of checks under any key, and mappings name -> value per backbone or one shared value."""
    rows: list[CertificateRow] = []
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
            rows += [_row(str(item["name"]), item) for item in value]
        elif isinstance(value, Mapping) and value and all(isinstance(item, Mapping) for item in value.values()):
            if any(k in item for item in value.values() for k in _STATUS_KEYS):
                rows += [_row(str(name), item) for name, item in value.items()]
            else:
                rows += _by_backbone(value)
        elif isinstance(value, Mapping) and key in ("equal", "hashes", "shared", "fixed"):
            rows += [CertificateRow(str(name), "equal", "", {"all": _short(item)}) for name, item in value.items()]
    return rows


def _row(name: str, item: Mapping[str, Any]) -> CertificateRow:
    status = next((str(item[key]).lower() for key in _STATUS_KEYS if key in item), "equal")
    if "equal" in item and isinstance(item["equal"], bool):
        status = "equal" if item["equal"] else "varies"
    kind = "equal" if status in _GOOD else "varies" if status in _VARIES else "refused"
    note = next((str(item[key]) for key in _NOTE_KEYS if item.get(key)), "")
    values = item.get("values", item.get("value"))
    shown = {str(k): _short(v) for k, v in values.items()} if isinstance(values, Mapping) else {}
    if not shown and values is not None:
        shown = {"all": _short(values)}
    return CertificateRow(_words(name), kind, note, shown)


def _by_backbone(table: Mapping[str, Mapping[str, Any]]) -> list[CertificateRow]:
    """backbone -> {name: value}, turned into name -> {backbone: value}."""
    names = dict.fromkeys(name for values in table.values() for name in values)
    rows = []
    for name in names:
        shown = {backbone: _short(values.get(name)) for backbone, values in table.items()}
        kind = "equal" if len(set(shown.values())) == 1 else "varies"
        rows.append(CertificateRow(_words(name), kind, "", shown if kind == "varies" else {"all": next(iter(shown.values()))}))
    return rows


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) in (40, 64) and all(letter in "0123456789abcdef" for letter in text):
        return text[:12]
    return text if len(text) <= 60 else text[:57] + "..."

"""Licences that a trained checkpoint inherits: from its backbone, its vision tower and its data. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_backbones.backbones import get_backbone
from vlm_backbones.vision import get_vision_tower

__all__ = ["find_licences", "inherited_licence"]

_HUB_IDS = {
    "Apache-2.0": "apache-2.0",
    "Gemma Terms of Use": "gemma",
    "LLAMA 2 Community License": "llama2",
    "Llama 3.1 Community License": "llama3.1",
    "Llama 3.2 Community License": "llama3.2",
    "MIT": "mit",
    "Meta Llama 3 Community License": "llama3",
}
_PERMISSIVE = {"apache-2.0", "mit"}


def find_licences(study: Mapping[str, Any], backbone: str) -> dict[str, str | None]:
    """Return the licence of every part of a run; None where it is unknown.

    Parameters
    ----------
    study
        As run.json holds it.

    Notes
    -----
    A dataset folder's licence is the one that its `dataset_info.json` states; a LLaVA JSON file states none.
    """
    parts = {
        f"backbone {backbone}": get_backbone(backbone).licence,
        f"vision tower {study['vision_tower']}": get_vision_tower(study["vision_tower"]).licence,
    }
    data = study["data"]
    of_stages = [path for listed in (data.get("stages") or {}).values() for path in listed]
    paths = [path for path in (data.get("align"), *(data.get("finetune") or []), *of_stages) if path]
    # names alone: the card is shared, this machine's folders are nobody's business
    parts |= {f"data {Path(path).name}": _data_licence(Path(path)) for path in paths}
    return parts if paths else parts | {"data of vlm-backbones' pocket study": "Apache-2.0"}


def _data_licence(path: Path) -> str | None:
    stated = set()
    for file in sorted(path.glob("*/*/dataset_info.json")) if path.is_dir() else []:
        try:
            stated.add(json.loads(file.read_text(encoding="utf-8")).get("license") or None)
        except (OSError, ValueError):
            stated.add(None)
    return None if not stated or None in stated else ", ".join(sorted(map(str, stated)))


def inherited_licence(licences: Mapping[str, str | None]) -> dict[str, str]:
    """Return the Hub's licence keys: the one restrictive licence, a permissive one, or `other` where several bind.

    Nothing where the backbone's own licence is unknown, or a part's is and no restrictive one binds: no permission
    may be claimed that nobody gave.
    """
    known = [licence for licence in licences.values() if licence]
    ids = {_HUB_IDS.get(licence, licence) for licence in known}
    binding = sorted(ids - _PERMISSIVE)
    if next(iter(licences.values())) is None:
        return {}
    if not binding:
        if len(known) < len(licences):
            return {}
        return {"license": "apache-2.0" if "apache-2.0" in ids else "mit"}
    if len(binding) == 1 and binding[0] in _HUB_IDS.values():
        return {"license": binding[0]}
    name = "-".join("".join(letter if letter.isalnum() else " " for letter in " ".join(binding).lower()).split())
    return {"license": "other", "license_name": name, "license_link": "README.md"}

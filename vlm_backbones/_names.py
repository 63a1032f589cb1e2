"""The names a study may use: backbones, vision towers and tasks, found without importing what they name. No torch."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

_TASK_LINE = re.compile(r"^(?:task|group|tag):[ \t]*[\"']?([^\s\"'#\[\-][^\s\"'#]*)", re.MULTILINE)


def known_backbones() -> list[str]:
    """Return the ids of the backbone registry."""
    return _registry_ids("vlm_backbones.backbones", "BACKBONES")


def known_vision_towers() -> list[str]:
    """Return the ids of the vision-tower registry."""
    return _registry_ids("vlm_backbones.vision", "VISION_TOWERS")


def _registry_ids(module: str, attribute: str) -> list[str]:
    registry: Any = getattr(importlib.import_module(module), attribute, ())
    return sorted(registry)


def task_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (task or group name, YAML file) of an lmms-eval task folder, by reading lines, not by loading."""
    for path in sorted(folder.rglob("*.yaml")):
        for match in _TASK_LINE.finditer(path.read_text(encoding="utf-8", errors="replace")):
            yield match.group(1), path


def own_tasks() -> dict[str, Path]:
    """Return the tasks and groups that this package ships."""
    return dict(task_files(_folder("vlm_backbones.tasks")))


def known_tasks(wanted: Sequence[str], folders: Iterable[Path] = ()) -> list[str]:
    """Return the known task names; lmms-eval's 1,900 files are read only where `wanted` needs them."""
    known = {"vqa_scene", "seismic_description", "seismic_coords", *own_tasks()}
    for folder in folders:
        known.update(name for name, _ in task_files(folder))
    if not known.issuperset(wanted):
        known.update(name for name, _ in task_files(_folder("lmms_eval") / "tasks"))
    return sorted(known)


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    return Path(next(iter(locations))) if locations else Path("/nonexistent")

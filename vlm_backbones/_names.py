"""The names a study may use: backbones, vision towers and tasks, found without importing what they name. No torch."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

_TASK_LINE = re.compile(r"^(?:task|group|tag):[ \t]*[\"']?([^\s\"'#\[\-][^\s\"'#]*)", re.MULTILINE)


def shipped_studies() -> dict[str, Path]:
    """Return the YAML files of the studies that this package ships, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "studies").glob("*.yaml"))}


def known_backbones() -> list[str]:
    """Return the ids of the backbone registry."""
    return _registry_ids("vlm_backbones.backbones", "BACKBONES")


def known_vision_towers() -> list[str]:
    """Return the ids of the vision-tower registry."""
    return _registry_ids("vlm_backbones.vision", "VISION_TOWERS")


def known_chat_formats() -> list[str]:
    """Return the names of the chat templates that this package ships."""
    return sorted(path.stem for path in (_folder("vlm_backbones") / "data" / "chat_formats").glob("*.jinja"))


def _registry_ids(module: str, attribute: str) -> list[str]:
    registry: Any = getattr(importlib.import_module(module), attribute, ())
    return sorted(registry)


def task_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (task or group name, YAML file) of an lmms-eval task folder, by reading lines, not by loading."""
    for path in sorted(folder.rglob("*.yaml")) if os.path.isdir(folder) else ():
        for match in _TASK_LINE.finditer(path.read_text(encoding="utf-8", errors="replace")):
            yield match.group(1), path


def own_tasks() -> dict[str, Path]:
    """Return the tasks and groups that this package ships."""
    return dict(task_files(_folder("vlm_backbones.tasks")))


def user_tasks() -> dict[str, Path]:
    """Return the tasks and groups in the folders of `VLM_BACKBONES_TASKS` (separated like PATH)."""
    folders = os.environ.get("VLM_BACKBONES_TASKS", "").split(os.pathsep)
    return {name: path for folder in folders if folder for name, path in task_files(Path(folder).expanduser())}


@functools.cache
def stock_tasks() -> frozenset[str]:
    """Return the names of lmms-eval's own tasks and groups; it reads their 1,900 files, once a process."""
    return frozenset(name for name, _ in task_files(_folder("lmms_eval") / "tasks"))


def known_tasks(wanted: Sequence[str], folders: Iterable[Path] = ()) -> list[str]:
    """Return the known task names; lmms-eval's 1,900 files are read only where `wanted` needs them."""
    known = {*own_tasks(), *user_tasks()}
    for folder in folders:
        known.update(name for name, _ in task_files(folder))
    if not known.issuperset(wanted):
        known |= stock_tasks()
    return sorted(known)


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    return Path(next(iter(locations))) if locations else Path("/nonexistent")


def describe_backbones() -> list[dict[str, str]]:
    """Return the backbones' main facts as rows of text."""
    from vlm_backbones.backbones import list_backbones

    keys = ("id", "family", "generation", "released", "licence", "hub_repo")
    return [{key: _text(getattr(row, key)) for key in keys} for row in list_backbones()]


def describe_backbone(name: str) -> dict[str, Any]:
    """Return all facts of one backbone, by id or folder."""
    from vlm_backbones.backbones import get_backbone

    return _plain(get_backbone(name))


def describe_vision_towers() -> list[dict[str, str]]:
    """Return the vision towers' main facts as rows of text."""
    from vlm_backbones.vision import list_vision_towers

    keys = ("id", "family", "image_size", "feature_layer", "licence", "hub_repo")
    return [{key: _text(getattr(row, key)) for key in keys} for row in list_vision_towers()]


def describe_vision_tower(name: str) -> dict[str, Any]:
    """Return all facts of one vision tower, by id or folder."""
    from vlm_backbones.vision import get_vision_tower

    return _plain(get_vision_tower(name))


def _plain(row: Any) -> dict[str, Any]:
    facts = dataclasses.asdict(row)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in facts.items()}


def _text(value: object) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

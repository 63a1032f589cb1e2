"""Look up a backbone by exact id or by the path of a local folder. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_backbones._registry import PACKAGE_DIR, Rows, find_source
from vlm_backbones.backbones.packaged import PackagedGguf

__all__ = ["BACKBONES", "Backbone", "get_backbone", "list_backbones"]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One LLM: what is known of it before any weight is read; unknown facts are None."""

    id: str
    family: str
    generation: str | None = None
    released: str | None = None
    """Year and month, as in 2023-02."""
    hub_repo: str | None = None
    revision: str | None = None
    licence: str | None = None
    gated: bool | None = None
    chat_format: str | None = None
    """Name of the prompt format that the model was tuned with; None for a base model."""
    stop_tokens: tuple[str, ...] = ()
    parameters: int | None = None
    config: Mapping[str, Any] | None = field(default=None, hash=False)
    """Its shapes as keys of transformers' configuration, for what can be known without its files."""
    package_path: str | None = None
    """Folder inside this package, for the embedded backbones."""
    gguf: PackagedGguf | None = None
    """The file of another PyPI package, for what comes neither with this one nor from the hub."""
    local_path: str | None = None

    @property
    def source(self) -> str:
        """Folder or hub repository to load from; a package's file is converted on the first look.

        Raises
        ------
        ConfigError
            Where the row knows none, or the package is not installed.
        """
        if self.local_path is not None:
            return self.local_path
        if self.gguf is not None:
            return str(self.gguf.folder())
        return find_source(self.id, "backbone", package_path=self.package_path, hub_repo=self.hub_repo)


def _build_backbone(content: dict[str, Any]) -> Backbone:
    gguf = PackagedGguf(**content["gguf"]) if "gguf" in content else None
    return Backbone(**{**content, "stop_tokens": tuple(content.get("stop_tokens") or ()), "gguf": gguf})


BACKBONES: Rows[Backbone] = Rows(PACKAGE_DIR / "backbones" / "rows", _build_backbone, "backbone")


def list_backbones() -> list[Backbone]:
    """Return every row, oldest release first."""
    return sorted(BACKBONES.values(), key=lambda row: (row.released or "", row.id))


def get_backbone(id_or_path: str | Path) -> Backbone:
    """Return the row of ID or ID@REVISION, or a row made from a local model folder's config.json.

    Raises
    ------
    ConfigError
        If the id is unknown; the message names the nearest known one.
    CheckpointError
        If the folder has no readable config.json.
    """
    return BACKBONES.find(id_or_path, _from_folder)


def _from_folder(folder: Path, config: dict[str, Any]) -> Backbone:
    return Backbone(id=folder.resolve().name, family=str(config.get("model_type")), local_path=str(folder))

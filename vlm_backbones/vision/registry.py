"""Look up a vision tower by exact id or by the path of a local folder. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_backbones._registry import PACKAGE_DIR, Rows, find_source
from vlm_backbones.errors import CheckpointError

__all__ = ["VISION_TOWERS", "VisionTower", "get_vision_tower", "list_vision_towers"]


@dataclass(frozen=True, kw_only=True)
class VisionTower:
    """One image encoder and which of its hidden states the projector reads."""

    id: str
    family: str
    """`clip` has a CLS token, `siglip` has none."""
    hub_repo: str | None = None
    revision: str | None = None
    licence: str | None = None
    image_size: int
    """Pixels a side."""
    patch_size: int
    """Pixels a side."""
    feature_layer: int = -2
    """Index into the hidden states, the last is -1."""
    select_strategy: str = "default"
    """`default` drops the first token (CLS), `full` keeps every token."""
    pad_to_square: bool = True
    """Whether images are padded to a square before they are resized (LLaVA's `image_aspect_ratio: pad`)."""
    package_path: str | None = None
    local_path: str | None = None

    @property
    def source(self) -> str:
        """Folder or hub repository to load from; `ConfigError` where the row knows none."""
        if self.local_path is not None:
            return self.local_path
        return find_source(self.id, "vision tower", package_path=self.package_path, hub_repo=self.hub_repo)

    @property
    def class_tokens(self) -> int:
        """Tokens beyond the patches: 1 for CLIP, 0 for SigLIP."""
        return 1 if self.family == "clip" else 0

    @property
    def image_tokens(self) -> int:
        """Tokens that an image takes in the LLM's context."""
        total = (self.image_size // self.patch_size) ** 2 + self.class_tokens
        return total - 1 if self.select_strategy == "default" else total


def _build_tower(content: dict[str, Any]) -> VisionTower:
    return VisionTower(**content)


VISION_TOWERS: Rows[VisionTower] = Rows(PACKAGE_DIR / "vision" / "rows", _build_tower, "vision tower")


def list_vision_towers() -> list[VisionTower]:
    """Return every row, by id."""
    return list(VISION_TOWERS.values())


def get_vision_tower(id_or_path: str | Path) -> VisionTower:
    """Return the row of an id, or a row made from a local tower folder's config.json.

    Raises
    ------
    ConfigError
        If the id is unknown; the message names the nearest known one.
    CheckpointError
        If the folder has no readable config.json, or one of another kind of model.
    """
    return VISION_TOWERS.find(id_or_path, _from_folder)


def _from_folder(folder: Path, config: dict[str, Any]) -> VisionTower:
    config = config.get("vision_config", config)
    family = str(config.get("model_type", "")).split("_")[0]
    if family not in {"clip", "siglip"} or "image_size" not in config:
        raise CheckpointError(f"{folder}: expected a CLIP or SigLIP vision tower, found {config.get('model_type')!r}.")
    return VisionTower(
        id=folder.resolve().name,
        family=family,
        image_size=int(config["image_size"]),
        patch_size=int(config["patch_size"]),
        select_strategy="full" if family == "siglip" or config["image_size"] <= 112 else "default",
        pad_to_square=config["image_size"] > 112,
        local_path=str(folder),
    )

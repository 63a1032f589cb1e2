"""Look up a vision tower by exact id or by the path of a local folder. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from vlm_backbones._registry import PACKAGE_DIR, Rows, find_source
from vlm_backbones.errors import CheckpointError, ConfigError, nearest

__all__ = [
    "CLASS_TOKENS",
    "ROW_FILE",
    "VISION_TOWERS",
    "VisionTower",
    "get_vision_tower",
    "list_vision_towers",
    "squared_as",
]

CLASS_TOKENS = {"clip": 1, "dinov2": 1, "siglip": 0}
"""Of each family, before the patches."""
_LARGEST_PX = 2**14
ROW_FILE = "vision_tower.yaml"
"""In a local tower's folder: the row's keys that its config.json cannot know, such as `feature_layer`."""


@dataclass(frozen=True, kw_only=True)
class VisionTower:
    """One image encoder and which of its hidden states the projector reads.

    Raises
    ------
    ConfigError
        If the family is unknown, or several layers are named for a tower without a class token.
    """

    id: str
    family: str
    """`clip` and `dinov2` have a class token, `siglip` (SigLIP 2 too) has none."""
    hub_repo: str | None = None
    revision: str | None = None
    licence: str | None = None
    image_size: int
    """Pixels a side."""
    patch_size: int
    """Pixels a side."""
    feature_layer: int | tuple[int, ...] = -2
    """Index into the hidden states, the last is -1. Several are concatenated: then the VLM is a VipLlava."""
    select_strategy: str = "default"
    """`default` drops the first token (CLS), `full` keeps every token."""
    pad_to_square: bool = True
    """Whether images are padded to a square before they are resized (LLaVA's `image_aspect_ratio: pad`)."""
    config: Mapping[str, Any] | None = field(default=None, hash=False)
    """Its shapes as keys of transformers' configuration, for what can be known without its files."""
    package_path: str | None = None
    local_path: str | None = None

    def __post_init__(self) -> None:
        if self.family not in CLASS_TOKENS:
            raise ConfigError(f"vision tower {self.id!r}: unknown family.{nearest(self.family, CLASS_TOKENS)}")
        if not 1 <= self.patch_size <= self.image_size <= _LARGEST_PX:
            raise ConfigError(
                f"vision tower {self.id!r}: patches of {self.patch_size} pixels in pictures of {self.image_size}: "
                f"expected 1 <= patch_size <= image_size <= {_LARGEST_PX}."
            )
        if self.is_multi_layer and not (self.class_tokens and self.select_strategy == "default"):
            raise ConfigError(
                f"vision tower {self.id!r}: several feature layers make a VipLlava, which drops the first token of "
                "each. Choose a tower with a class token and select_strategy: default, or one feature_layer."
            )

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """The layers that the projector reads, in its order; one or several."""
        return self.feature_layer if isinstance(self.feature_layer, tuple) else (self.feature_layer,)

    @property
    def is_multi_layer(self) -> bool:
        """Whether several layers are read, behind a norm: the VLM is then a VipLlava."""
        return isinstance(self.feature_layer, tuple)

    @property
    def source(self) -> str:
        """Folder or hub repository to load from; `ConfigError` where the row knows none."""
        if self.local_path is not None:
            return self.local_path
        return find_source(self.id, "vision tower", package_path=self.package_path, hub_repo=self.hub_repo)

    @property
    def class_tokens(self) -> int:
        """Tokens beyond the patches: 1 for CLIP and DINOv2, 0 for SigLIP."""
        return CLASS_TOKENS[self.family]

    @property
    def image_tokens(self) -> int:
        """Tokens that an image takes in the LLM's context."""
        total = (self.image_size // self.patch_size) ** 2 + self.class_tokens
        return total - 1 if self.select_strategy == "default" else total


def _build_tower(content: dict[str, Any]) -> VisionTower:
    layer = content.get("feature_layer")
    return VisionTower(**{**content, "feature_layer": tuple(layer)} if isinstance(layer, list) else content)


VISION_TOWERS: Rows[VisionTower] = Rows(PACKAGE_DIR / "vision" / "rows", _build_tower, "vision tower")


def list_vision_towers() -> list[VisionTower]:
    """Return every row, by id."""
    return list(VISION_TOWERS.values())


def get_vision_tower(id_or_path: str | Path) -> VisionTower:
    """Return the row of ID or ID@REVISION, or one made from a local tower folder's config.json and `vision_tower.yaml`.

    Raises
    ------
    ConfigError
        If the id is unknown; the message names the nearest known one. If `vision_tower.yaml` has an unknown key.
    CheckpointError
        If the folder has no readable config.json, or one of another kind of model.
    """
    return VISION_TOWERS.find(id_or_path, _from_folder)


def squared_as(row: VisionTower, aspect: str | None) -> VisionTower:
    """Return the row with the way in which a stage makes its pictures square: pad, crop, or None for the row's own."""
    return row if aspect is None else replace(row, pad_to_square=aspect == "pad")


def _from_folder(folder: Path, config: dict[str, Any]) -> VisionTower:
    inner = config.get("vision_config")
    config = inner if isinstance(inner, dict) else config
    kind = str(config.get("model_type", ""))
    family = kind.removesuffix("_vision_model").removesuffix("_model")
    if family not in CLASS_TOKENS or "image_size" not in config:
        raise CheckpointError(
            f"{folder}: expected a CLIP, SigLIP (2 with a fixed resolution) or DINOv2 vision tower, found {kind!r}."
        )
    sizes = {key: config.get(key) for key in ("image_size", "patch_size")}
    if not all(isinstance(size, int) for size in sizes.values()):
        raise CheckpointError(f"{folder}: expected image_size and patch_size in pixels, found {str(sizes)[:120]}.")
    guessed = {
        "id": folder.resolve().name,
        "family": family,
        **sizes,
        "select_strategy": "full" if family == "siglip" or config["image_size"] <= 112 else "default",
        "pad_to_square": config["image_size"] > 112,
        "local_path": str(folder),
    }
    try:
        return TypeAdapter(VisionTower).validate_python({**guessed, **_read_row_file(folder / ROW_FILE)})
    except ValidationError as error:
        said = "; ".join(f"{row['loc'][0]}: {row['msg']}" for row in error.errors() if row["loc"])
        raise ConfigError(f"{folder / ROW_FILE}: {said}.") from error


def _read_row_file(path: Path) -> dict[str, Any]:
    """Return what a user says about a local tower; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except Exception as error:  # odd dates, numbers and nestings make YAML's constructors raise nearly anything
        raise ConfigError(f"{path} cannot be read ({error}).") from error
    known = {row.name for row in fields(VisionTower)} - {"id", "family", "hub_repo", "package_path", "local_path"}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys with values, found {type(content).__name__}.")
    for key in content:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}.{nearest(str(key), known)}")
    return content

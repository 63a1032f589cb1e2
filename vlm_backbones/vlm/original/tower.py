"""The vision tower of an original checkpoint: embedded in it, or named by it and read from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig
from transformers.models.clip import CLIPImageProcessorPil

from vlm_backbones.errors import CheckpointError
from vlm_backbones.vision import VISION_TOWERS, VisionTower, get_vision_tower
from vlm_backbones.vision.preprocessing import at_size, build_image_processor, padding_processor
from vlm_backbones.vlm.original.config import OriginalConfig
from vlm_backbones.vlm.original.weights import Tensors
from vlm_backbones.vlm.towers import check_tower, load_vision_tower

__all__ = ["Tower", "find_tower"]

_HEAD_SIZE = 64
"""Of every CLIP that OpenAI published; the tensors' shapes tell all else."""
_REMEDY = "Run `vlm-backbones convert {} OUT --vision-tower DIR` with the tower's folder."


@dataclass(frozen=True)
class Tower:
    """A tower with its row, configuration, weights under transformers' names, and preprocessing."""

    row: VisionTower
    config: Any
    tensors: Tensors
    image_processor: Any


def find_tower(config: OriginalConfig, embedded: Tensors, folder: Path, given: Path | None) -> Tower:
    """Return the tower of a checkpoint.

    Parameters
    ----------
    embedded
        The tower's tensors inside the checkpoint; empty where it only names its tower.
    given
        A tower's folder that the user names: needed where the named one cannot be reached.

    Raises
    ------
    CheckpointError
        If the tower is neither embedded nor known, or cannot be loaded.
    """
    if embedded and given is None:
        row, vision_config = _row_of_tensors(embedded)
        check_tower(_as_read(row, config), vision_config)
        base: Any = CLIPImageProcessorPil()
        pads = config.image_aspect_ratio == "pad"
        image_processor = (padding_processor if pads else at_size)(base, row.image_size)
        return Tower(_as_read(row, config), vision_config, embedded, image_processor)
    row = _as_read(get_vision_tower(given) if given is not None else _named_row(config, folder), config)
    try:
        tower: Any = load_vision_tower(row)
        image_processor = build_image_processor(row)
    except CheckpointError as error:
        hint = "" if given is not None else f" {_REMEDY.format(folder)}"
        raise CheckpointError(f"{folder} names the vision tower {config.mm_vision_tower}: {error}{hint}") from error
    return Tower(row, tower.config, embedded or dict(tower.state_dict()), image_processor)


def _as_read(row: VisionTower, config: OriginalConfig) -> VisionTower:
    return replace(
        row,
        feature_layer=config.feature_layer,
        select_strategy=config.select_strategy,
        pad_to_square=config.image_aspect_ratio == "pad",
    )


def _named_row(config: OriginalConfig, folder: Path) -> VisionTower:
    name = config.mm_vision_tower
    if config.is_vip:
        return VISION_TOWERS["clip-vit-l-336-vip"]
    for row in VISION_TOWERS.values():
        if row.hub_repo == name and not row.is_multi_layer:
            return row
    if Path(name).is_dir():
        return get_vision_tower(name)
    raise CheckpointError(
        f"{folder} names the vision tower {name!r}, which is neither known nor a folder here. " + _REMEDY.format(folder)
    )


def _row_of_tensors(tensors: Tensors) -> tuple[VisionTower, Any]:
    """Return the row and configuration of an embedded CLIP tower, from its tensors' shapes."""
    try:
        width, _, patch, _ = tensors["embeddings.patch_embedding.weight"].shape
        positions = tensors["embeddings.position_embedding.weight"].shape[0]
        inner = tensors["encoder.layers.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"the embedded vision tower is no CLIP ({error}): give --vision-tower DIR.") from error
    size = round((positions - 1) ** 0.5) * patch
    layers = {name.split(".")[2] for name in tensors if name.startswith("encoder.layers.")}
    build: Any = CLIPVisionConfig
    vision_config = build(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, width // _HEAD_SIZE),
        image_size=size,
        patch_size=patch,
        projection_dim=768,
    )
    return VisionTower(id="embedded", family="clip", image_size=size, patch_size=patch, local_path="."), vision_config

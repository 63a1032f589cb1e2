"""The tensors of an original checkpoint: read from shards or one file, under transformers' names."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from vlm_backbones.errors import CheckpointError
from vlm_backbones.json_text import parse_json

__all__ = ["check_names", "read_tensors", "rename", "split_tower"]

_INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_PROJECTOR_FILE = "mm_projector.bin"
_DROPPED = re.compile(r"(rotary_emb\.inv_freq|position_ids)$")
_TOWER = re.compile(r"^model\.vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?")
_PROJECTOR = re.compile(r"^(?:model\.)?mm_projector\.")
_PROJECTOR_PARTS = {
    "clip_layernorm.": "projector_layernorm.",
    "final_linear.0.": "linear_1.",
    "final_linear.2.": "linear_2.",
    "0.": "linear_1.",
    "2.": "linear_2.",
    "weight": "linear_1.weight",
    "bias": "linear_1.bias",
}
_SHOWN = 12

Tensors = dict[str, torch.Tensor]


def read_tensors(folder: Path) -> Tensors:
    """Return all tensors of a folder under their original names; a separate projector file counts where it is needed.

    Raises
    ------
    CheckpointError
        If there are no weights, a shard is missing or damaged, or a pickle holds more than tensors.
    """
    tensors: Tensors = {}
    for path in _weight_files(folder):
        tensors |= read_file(path)
    if not any(_PROJECTOR.match(name) for name in tensors) and (folder / _PROJECTOR_FILE).is_file():
        tensors |= read_file(folder / _PROJECTOR_FILE)
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    for name in _INDEX_FILES:
        if (folder / name).is_file():
            return _shards(folder / name)
    single = [folder / name for name in _SINGLE_FILES if (folder / name).is_file()]
    if not single:
        raise CheckpointError(
            f"{folder} has no weights: none of {', '.join([*_INDEX_FILES, *_SINGLE_FILES])}. Copy the checkpoint again."
        )
    return single[:1]


def _shards(index: Path) -> list[Path]:
    try:
        named = sorted({str(name) for name in parse_json(index.read_bytes())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} cannot be read: expected a JSON object with weight_map ({error}).") from error
    if outside := [name for name in named if Path(name).name != name or "\0" in name or len(name) > 255]:
        raise CheckpointError(
            f"{index}: {outside[0][:60]!r} is no name of a file beside it. Copy the checkpoint again."
        )
    shards = [index.parent / name for name in named]
    missing = [shard.name for shard in shards if not os.path.isfile(shard)]
    if missing:
        raise CheckpointError(f"{index.parent}: {', '.join(missing)} named by {index.name} are missing. Copy them too.")
    return shards


def read_file(path: Path) -> Tensors:
    """Return the tensors of a safetensors file, or of a pickle that holds nothing else."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # only the zip format, which torch has written since 1.6, can be mapped
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and is not opened, because it could run code. Ask for safetensors."
        ) from error
    except Exception as error:  # a damaged file makes torch and zipfile raise nearly anything
        raise CheckpointError(f"{path} cannot be read ({error}). Copy it again.") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: expected names with tensors, found {type(content).__name__}.")
    return dict(content)


def split_tower(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Return (all others, the embedded tower's under the names of transformers' tower); the latter may be empty."""
    tower = {
        _TOWER.sub("", name): value
        for name, value in tensors.items()
        if _TOWER.match(name) and not _DROPPED.search(name)
    }
    return {name: value for name, value in tensors.items() if not _TOWER.match(name)}, tower


def rename(tensors: Tensors) -> Tensors:
    """Return LLM and projector under transformers' names; unknown names stay, for `check_names` to list.

    Phi-3's fused projections are fused in transformers too, and are kept as they are.
    """
    return {_new_name(name): value for name, value in tensors.items() if not _DROPPED.search(name)}


def _new_name(name: str) -> str:
    if _PROJECTOR.match(name):
        leaf = _PROJECTOR.sub("", name)
        for old, new in _PROJECTOR_PARTS.items():
            if leaf.startswith(old):
                return f"model.multi_modal_projector.{new}{leaf.removeprefix(old)}"
        return name
    return re.sub(r"^model\.(embed_tokens|layers|norm)\.", r"model.language_model.\1.", name)


def check_names(folder: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare names and shapes with what the model needs.

    Raises
    ------
    CheckpointError
        Listing every tensor that is missing, left over or of another shape.
    """
    problems = []
    if missing := expected.keys() - found.keys():
        problems.append(f"missing: {_listed(missing)}")
    if extra := found.keys() - expected.keys():
        problems.append(f"not expected: {_listed(extra)}")
    other = [
        f"{name} {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in found.keys() & expected.keys()
        if found[name].shape != expected[name].shape
    ]
    if other:
        problems.append(f"of another shape: {_listed(other)}")
    if problems:
        raise CheckpointError(f"{folder}: the tensors do not fit its config.json; {'; '.join(problems)}.")


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more

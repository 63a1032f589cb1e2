"""Feature cache: hidden states of the frozen tower, computed once, memory-mapped, shared by all backbones."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from transformers import PreTrainedModel

from vlm_backbones.cache import atomic_write_text, staged_path
from vlm_backbones.data.conversations import Example, ImageSource
from vlm_backbones.errors import DataError
from vlm_backbones.vision.preprocessing import preprocess_images

__all__ = [
    "FeatureCache",
    "FeatureSpec",
    "build_feature_cache",
    "feature_folder",
    "feature_statistics",
    "tower_fingerprint",
    "unique_images",
]

_BATCH = 64
_LEAST_STD = 1e-3


def tower_fingerprint(tower: PreTrainedModel) -> str:
    """Return the sha256 of a tower's weights, as loaded."""
    total = hashlib.sha256(type(tower).__name__.encode())
    for name, tensor in sorted(tower.state_dict().items()):
        total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@dataclass(frozen=True)
class FeatureSpec:
    """What is computed: a tower, its preprocessing and some of its layers, side by side."""

    tower: PreTrainedModel
    image_processor: Any
    layers: tuple[int, ...]
    select_strategy: str

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of tower, preprocessing, layers, strategy and stored type."""
        facts = [tower_fingerprint(self.tower), self.image_processor.to_json_string(), self.layers]
        return hashlib.sha256(json.dumps([*facts, self.select_strategy, "float16"]).encode()).hexdigest()

    @torch.inference_mode()
    def compute(self, images: Sequence[ImageSource]) -> torch.Tensor:
        """Return hidden states, float32, (images, all tokens, layers * width)."""
        pixels = preprocess_images(self.image_processor, [image.open() for image in images])
        pixels = pixels.to(self.tower.device, self.tower.dtype)
        states = self.tower(pixels, output_hidden_states=True).hidden_states
        return torch.cat([states[layer].float().cpu() for layer in self.layers], dim=-1)

    def selected(self, states: torch.Tensor) -> torch.Tensor:
        """Return the tokens that the projector reads."""
        return states[:, 1:] if self.select_strategy == "default" else states


@dataclass(frozen=True)
class FeatureCache:
    """Cached states by the digest of the encoded picture."""

    states: npt.NDArray[np.float16]  # (images, tokens, width), memory-mapped
    rows: dict[bytes, int]
    mean: torch.Tensor  # (width,)
    std: torch.Tensor  # (width,)
    fingerprint: str

    def row(self, image: ImageSource) -> int:
        """Return the row of a picture."""
        return self.rows[image.digest()]

    def gather(self, rows: Sequence[int]) -> torch.Tensor:
        """Return states, float32, (rows, tokens, width)."""
        return torch.from_numpy(self.states[np.asarray(rows)].astype(np.float32))


def unique_images(examples: Iterable[Example]) -> dict[bytes, ImageSource]:
    """Return the pictures of examples by digest, in the order of their digests."""
    images = {example.image.digest(): example.image for example in examples if example.image is not None}
    return dict(sorted(images.items()))


def feature_folder(folder: Path, images: dict[bytes, ImageSource], spec: FeatureSpec) -> Path:
    """Return the place under `folder` of what is known of these pictures' features, made where it is missing.

    Raises
    ------
    DataError
        If the folder cannot be written.
    """
    place = folder / _name(images, spec)[:16]
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {place}: {error.strerror}. Choose another folder.") from error
    return place


def _name(images: dict[bytes, ImageSource], spec: FeatureSpec) -> str:
    return hashlib.sha256(spec.fingerprint.encode() + b"".join(images)).hexdigest()


def build_feature_cache(
    place: Path,
    images: dict[bytes, ImageSource],
    spec: FeatureSpec,
    *,
    budget_bytes: int,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureCache | None:
    """Return the cache of these pictures, computing it where it is missing or damaged.

    Parameters
    ----------
    place
        From `feature_folder`.
    images
        From `unique_images`.
    budget_bytes
        Larger sets are not cached.
    progress
        Called with (done, total) pictures.

    Returns
    -------
    The cache, or None where the set is larger than the budget: then stream through the tower.

    Raises
    ------
    DataError
        If a picture is missing or corrupt.
    """
    if not images:
        return None
    name = _name(images, spec)
    with FileLock(place / "lock"):
        cache = _open(place, list(images), name)
        if cache is None:
            sources = list(images.values())
            shape = (len(sources), *spec.compute(sources[:1]).shape[1:])
            if 2 * int(np.prod(shape)) > budget_bytes:
                return None
            _compute(place, sources, spec, shape, name, progress)
            cache = _open(place, list(images), name)
    return cache


def _open(place: Path, digests: list[bytes], name: str) -> FeatureCache | None:
    """Return the cache of a folder, or None where it is missing, of other content, or damaged."""
    try:
        meta = json.loads((place / "meta.json").read_text(encoding="utf-8"))
        with (place / "states.npy").open("rb") as stream:
            checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError):
        return None
    if meta.get("name") != name:
        return None
    if meta.get("sha256") != checksum:
        print(f"{place / 'states.npy'} is damaged (its sha256 is not the one in meta.json): computed again", flush=True)
        return None
    return FeatureCache(
        states=np.load(place / "states.npy", mmap_mode="r"),
        rows={digest: row for row, digest in enumerate(digests)},
        mean=torch.tensor(meta["mean"]),
        std=torch.tensor(meta["std"]),
        fingerprint=name,
    )


def _compute(
    place: Path,
    sources: Sequence[ImageSource],
    spec: FeatureSpec,
    shape: tuple[int, ...],
    name: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    moments = _Moments(shape[-1])
    with staged_path(place / "states.npy") as staged:
        states = _reserved(staged, shape)
        for start, batch in _half_states(sources, spec, progress):
            states[start : start + len(batch)] = batch.numpy()
            moments.add(spec.selected(batch))
        states.flush()  # type: ignore[attr-defined]
        del states
    mean, std = moments.mean_and_std()
    with (place / "states.npy").open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    meta = {"name": name, "sha256": checksum, "mean": mean.tolist(), "std": std.tolist(), "shape": shape}
    atomic_write_text(place / "meta.json", json.dumps(meta))


def _reserved(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.float16]:
    """Return a new memory-mapped array with its room taken: a full disk is an error here, no signal later."""
    header = {"descr": np.dtype(np.float16).str, "fortran_order": False, "shape": shape}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        size = stream.tell() + 2 * int(np.prod(shape))
        if hasattr(os, "posix_fallocate"):
            stream.flush()
            os.posix_fallocate(stream.fileno(), 0, size)
        else:
            stream.truncate(size)
    states: npt.NDArray[np.float16] = np.load(path, mmap_mode="r+")
    return states


def feature_statistics(
    place: Path,
    images: dict[bytes, ImageSource],
    spec: FeatureSpec,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (mean, std), each (width,), of pictures that are not cached: those that their cache would have.

    Parameters
    ----------
    place
        From `feature_folder`; a pass over all pictures is made once and remembered there.
    """
    path = place / "statistics.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return torch.tensor(known["mean"]), torch.tensor(known["std"])
    except (OSError, ValueError, KeyError, TypeError):
        moments = _Moments(int(spec.tower.config.hidden_size) * len(spec.layers))  # type: ignore[union-attr]
    for _, batch in _half_states(list(images.values()), spec, progress):
        moments.add(spec.selected(batch))
    mean, std = moments.mean_and_std()
    atomic_write_text(path, json.dumps({"mean": mean.tolist(), "std": std.tolist()}))
    return mean.float(), std.float()


def _half_states(
    sources: Sequence[ImageSource], spec: FeatureSpec, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield batches of float16 states, each with the number of its first picture."""
    for start in range(0, len(sources), _BATCH):
        batch = spec.compute(sources[start : start + _BATCH]).half()
        yield start, batch
        if progress is not None:
            progress(start + len(batch), len(sources))


class _Moments:
    """Mean and deviation over all tokens of all pictures, in double."""

    def __init__(self, width: int) -> None:
        self._total, self._square, self._count = torch.zeros(width).double(), torch.zeros(width).double(), 0

    def add(self, states: torch.Tensor) -> None:
        """Count states, (images, tokens, width)."""
        flat = states.double().flatten(0, 1)
        self._total, self._square = self._total + flat.sum(0), self._square + flat.square().sum(0)
        self._count += len(flat)

    def mean_and_std(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both, each (width,), double."""
        mean = self._total / self._count
        return mean, (self._square / self._count - mean.square()).clamp_min(0).sqrt().clamp_min(_LEAST_STD)

"""Perturbed evaluation: another encoding of the image, another wording, another question's image."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vlm_backbones.errors import ConfigError, DataError, nearest
from vlm_backbones.model_wrappers._record import image_key

__all__ = ["CONDITIONS", "check_condition", "paraphrased", "perturbed", "swap_partners"]

JPEG_QUALITY = 40
NOISE_SHARE = 0.05
SHIFT_PX = 4
SWAP_SEED = 20_240_131


def _jpeg(image: Image.Image, key: str) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return Image.open(buffer).convert("RGB")


def _noise(image: Image.Image, key: str) -> Image.Image:
    """Add Gaussian noise whose sigma is 0.05 of full scale; seeded by the image, so every run sees the same."""
    draws = np.random.default_rng(int(key[:16], 16)).normal(0.0, NOISE_SHARE * 255, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + draws, 0, 255).round().astype(np.uint8))


def _shift(image: Image.Image, key: str) -> Image.Image:
    """Move the picture 4 px right and down; the border repeats."""
    padded = np.pad(np.asarray(image), ((SHIFT_PX, 0), (SHIFT_PX, 0), (0, 0)), mode="edge")
    return Image.fromarray(padded[: image.height, : image.width])


_IMAGE_PERTURBATIONS: Mapping[str, Callable[[Image.Image, str], Image.Image]] = {
    "jpeg40": _jpeg,
    "noise05": _noise,
    "shift4": _shift,
}
CONDITIONS = ("clean", *_IMAGE_PERTURBATIONS, "paraphrase", "swap")


def check_condition(condition: str) -> str:
    """Return a known condition; raise ConfigError otherwise."""
    if condition not in CONDITIONS:
        raise ConfigError(f"unknown condition {condition!r}.{nearest(condition, CONDITIONS)}")
    return condition


def perturbed(images: Sequence[Image.Image], condition: str) -> list[Image.Image]:
    """Return a document's RGB images under a condition that changes pixels; the same images under any other."""
    change = _IMAGE_PERTURBATIONS.get(condition)
    if change is None:
        return list(images)
    return [change(image, image_key([image]) or "") for image in images]


def paraphrased(context: str, doc: Mapping[str, Any]) -> str:
    """Return the context with the document's question replaced by its second wording.

    Raises
    ------
    DataError
        If the row has an empty paraphrase, or its question does not stand in the context.
    """
    question, paraphrase = doc.get("question"), doc.get("paraphrase")
    if not question or not paraphrase or question not in context:
        raise DataError(
            f"no second wording for {context[:80]!r}: the row needs a question that stands in the prompt, and a "
            "non-empty paraphrase."
        )
    return context.replace(str(question), str(paraphrase), 1)


def swap_partners(keys: Iterable[tuple[int, str | None, int]], task: str) -> dict[int, int]:
    """Return doc_id -> doc_id of the document whose images it gets instead of its own.

    A derangement over distinct images, seeded by the task's name and the images alone: all documents of one image get
    the same other image, whatever the batch, order or number of processes.

    Parameters
    ----------
    keys
        (doc_id, image key, number of images) of every document; those without images keep none.
    task
        The task's name.

    Raises
    ------
    DataError
        If the documents with n images all share one picture, for any n.
    """
    owners: dict[int, dict[str, int]] = {}
    members: list[tuple[int, str, int]] = []
    for doc_id, key, count in keys:
        if key is not None:
            owners.setdefault(count, {}).setdefault(key, doc_id)
            members.append((doc_id, key, count))
    partner_key: dict[tuple[int, str], str] = {}
    for count, by_key in owners.items():
        if len(by_key) < 2:
            raise DataError(f"task {task!r} has one picture only: condition swap needs two or more.")
        cycle = sorted(by_key)
        seed = hashlib.sha256(f"{SWAP_SEED}:{task}:{count}".encode()).hexdigest()
        random.Random(seed).shuffle(cycle)
        # The successor on one cycle is never the key itself.
        partner_key |= {(count, key): cycle[(index + 1) % len(cycle)] for index, key in enumerate(cycle)}
    return {doc_id: owners[count][partner_key[count, key]] for doc_id, key, count in members}

"""Order of examples: the same for every backbone, decided by seed and tokenizer-independent lengths. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from vlm_backbones.data.conversations import Example
from vlm_backbones.errors import DataError
from vlm_backbones.recipe import StageRecipe

__all__ = ["build_order", "count_steps", "order_examples"]

IntArray = npt.NDArray[np.int64]

GROUPED_BATCHES = 4
"""Batches that are sorted by length together: few, so that a batch still mixes kinds of examples."""


def count_steps(examples: int, batch_size: int, steps: int | None, epochs: float | None) -> int:
    """Return the number of optimizer steps of a stage that is given in steps or in epochs, the last one filled up."""
    return steps if steps is not None else max(1, math.ceil(examples * (epochs or 1.0) / batch_size))


def build_order(
    lengths: Sequence[int],
    *,
    batch_size: int,
    steps: int,
    seed: int,
    grouping: Literal["length", "modality", "none"] = "length",
    with_image: Sequence[bool] | None = None,
) -> list[list[int]]:
    """Return the example indices of each step.

    Every epoch is shuffled, cut into batches, and the batches are shuffled again. What does not fill the last batch
    of an epoch opens the next one.

    Parameters
    ----------
    lengths
        Per example, in any unit that does not depend on the tokenizer.
    grouping
        `length`: runs of `GROUPED_BATCHES` batches are sorted by length before they are cut. `modality`: a batch has
        only examples with image or only such without; the rest of both kinds fills mixed batches. `none`: neither.
    with_image
        Per example, for `modality`.
    """
    if not lengths:
        raise DataError("there are no examples to order.")
    generator = np.random.default_rng(seed)
    sizes = np.asarray(lengths)
    pictured = np.zeros(len(sizes), dtype=bool) if with_image is None else np.asarray(with_image)
    order: list[list[int]] = []
    pending = np.empty(0, dtype=np.int64)
    while len(order) < steps:
        pending = np.concatenate([pending, generator.permutation(len(sizes))])
        whole = len(pending) // batch_size * batch_size
        chosen, pending = pending[:whole], pending[whole:]
        if grouping == "length":
            order += _by_length(chosen, sizes, batch_size, generator)
        else:
            ordered = _by_modality(chosen, pictured, batch_size) if grouping == "modality" else chosen
            order += _shuffled(ordered.reshape(-1, batch_size), generator)
    return order[:steps]


def _by_length(chosen: IntArray, sizes: IntArray, batch_size: int, generator: np.random.Generator) -> list[list[int]]:
    batches: list[list[int]] = []
    for start in range(0, len(chosen), batch_size * GROUPED_BATCHES):
        run = chosen[start : start + batch_size * GROUPED_BATCHES]
        run = run[np.argsort(sizes[run], kind="stable")]
        batches += _shuffled(run.reshape(-1, batch_size), generator)
    return batches


def _by_modality(chosen: IntArray, pictured: npt.NDArray[np.bool_], batch_size: int) -> IntArray:
    """Put whole batches of examples with image first, then whole ones without, then what is left of both."""
    kinds = [chosen[pictured[chosen]], chosen[~pictured[chosen]]]
    whole = [len(kind) // batch_size * batch_size for kind in kinds]
    parts = [kind[:size] for kind, size in zip(kinds, whole, strict=True)]
    return np.concatenate([*parts, *(kind[size:] for kind, size in zip(kinds, whole, strict=True))])


def _shuffled(batches: IntArray, generator: np.random.Generator) -> list[list[int]]:
    return [batches[index].tolist() for index in generator.permutation(len(batches))]


def order_examples(examples: Sequence[Example], recipe: StageRecipe) -> list[list[int]]:
    """Return the order of a stage's examples, as its recipe says."""
    return build_order(
        [example.length for example in examples],
        batch_size=recipe.batch_size,
        steps=count_steps(len(examples), recipe.batch_size, recipe.steps, recipe.epochs),
        seed=recipe.data_seed,
        grouping=recipe.batch_grouping,
        with_image=[example.image is not None for example in examples],
    )

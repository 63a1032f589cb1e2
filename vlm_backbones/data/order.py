"""Order of examples: the same for every backbone, decided by seed and tokenizer-independent lengths. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlm_backbones.errors import DataError

__all__ = ["build_order", "count_steps"]

GROUPED_BATCHES = 4
"""Batches that are sorted by length together: few, so that a batch still mixes kinds of examples."""


def count_steps(examples: int, batch_size: int, steps: int | None, epochs: float | None) -> int:
    """Return the number of optimizer steps of a stage that is given in steps or in epochs."""
    return steps if steps is not None else max(1, round(examples * (epochs or 1.0) / batch_size))


def build_order(lengths: Sequence[int], *, batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Return the example indices of each step.

    Every epoch is shuffled; runs of `GROUPED_BATCHES` batches are sorted by length, cut into batches, and shuffled
    again. What does not fill the last batch of an epoch opens the next one.

    Parameters
    ----------
    lengths
        Per example, in any unit that does not depend on the tokenizer.
    """
    if not lengths:
        raise DataError("there are no examples to order.")
    generator = np.random.default_rng(seed)
    sizes = np.asarray(lengths)
    order: list[list[int]] = []
    pending = np.empty(0, dtype=np.int64)
    while len(order) < steps:
        pending = np.concatenate([pending, generator.permutation(len(sizes))])
        whole = len(pending) // batch_size * batch_size
        for start in range(0, whole, batch_size * GROUPED_BATCHES):
            run = pending[start : min(start + batch_size * GROUPED_BATCHES, whole)]
            run = run[np.argsort(sizes[run], kind="stable")]
            batches = run.reshape(-1, batch_size)
            order += [batches[index].tolist() for index in generator.permutation(len(batches))]
        pending = pending[whole:]
    return order[:steps]

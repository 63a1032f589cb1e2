"""Whether an error says that memory ran out, which training and evaluation both go on from with less at once."""

from __future__ import annotations

import torch

__all__ = ["is_out_of_memory"]

_MESSAGES = (  # in small letters
    "out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory",
    "bad_alloc", "alloc_failed",  # the second is cuBLAS's and cuDNN's
    "could not create a memory object", "could not create a primitive", "could not execute a primitive",  # oneDNN
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed: torch and its libraries say so by type, or by the message alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in _MESSAGES)

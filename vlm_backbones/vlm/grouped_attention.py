"""Scaled dot-product attention of query heads that share key and value heads, by the fastest kernel there is."""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["attend_grouped"]

Tensor = torch.Tensor


def attend_grouped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Return the attention output, (rows, heads, tokens, head_size).

    Parameters
    ----------
    query
        (rows, heads, tokens, head_size)
    key, value
        (rows, key_value_heads, keys, head_size)
    mask
        What is added to the scores, or bool: what is seen. Broadcasts to (rows, heads, tokens, keys).
    """
    shared = query.shape[1] // key.shape[1]
    if shared > 1 and not _kernel_shares(query, mask):
        key, value = (states.repeat_interleave(shared, dim=1) for states in (key, value))
        shared = 1
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=shared > 1
    )


def _kernel_shares(query: Tensor, mask: Tensor | None) -> bool:
    """On CUDA shared heads under a mask would be left to plain products, which keep every score in memory."""
    return query.device.type != "cuda" or mask is None

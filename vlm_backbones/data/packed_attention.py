"""Attention over packed turns, registered with transformers as `packed_turns`; without a layout it is plain sdpa."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vlm_backbones.data.collation import AttentionLayout
from vlm_backbones.vlm.grouped_attention import attend_grouped

__all__ = ["NAME", "attend", "use_packed_attention"]

NAME = "packed_turns"


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: AttentionLayout,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Return the attention output of flat tokens, each seeing what the layout allows.

    Parameters
    ----------
    query
        (tokens, heads, head_size)
    key, value
        (tokens, key_value_heads, head_size)
    window
        How many tokens back a layer sees, the token itself included; None: all.
    softcap
        What the scores before the softmax are bent to stay below, as in Gemma 2; None: nothing.

    Returns
    -------
    (tokens, heads, head_size)
    """
    layout.calls.count += 1
    outputs = []
    heads, size = query.shape[1:]
    for block in layout.blocks:
        rows = block.mask.shape[0]
        own_query = query.index_select(0, block.queries).view(rows, -1, heads, size).transpose(1, 2)
        own_key, own_value = (
            states.index_select(0, block.keys).view(rows, -1, states.shape[1], size).transpose(1, 2)
            for states in (key, value)
        )
        mask = block.mask_within(window).to(query.dtype)
        if query.device.type == "cpu" or softcap is not None:
            output = _attend_by_products(own_query, own_key, own_value, mask, scaling, softcap)
        else:
            output = attend_grouped(own_query, own_key, own_value, mask, scale=scaling)
        outputs.append(output.transpose(1, 2).reshape(-1, heads, size))
    return torch.cat(outputs).index_select(0, layout.inverse)


def _attend_by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    softcap: float | None,
) -> torch.Tensor:
    """Return attention, (rows, heads, tokens, size), by plain products: torch's own is slow backwards on a CPU."""
    rows, heads, tokens, size = query.shape
    groups = key.shape[1]
    grouped = query.reshape(rows * groups, heads // groups * tokens, size)
    keys, values = key.reshape(rows * groups, -1, size), value.reshape(rows * groups, -1, size)
    scores = torch.bmm(grouped, keys.transpose(1, 2)).view(rows, heads, tokens, -1)
    if softcap is not None:
        scores, scaling = torch.tanh(scores * (scaling / softcap)), softcap
    shares = torch.softmax(torch.add(mask, scores, alpha=scaling), -1, dtype=torch.float32).to(values.dtype)
    return torch.bmm(shares.view(rows * groups, -1, keys.shape[1]), values).view(query.shape)


def _packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    layout: AttentionLayout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    if layout is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return output, None
    flat = [states[0].transpose(0, 1) for states in (query, key, value)]  # (tokens, heads, head_size)
    scaling = scaling or query.shape[-1] ** -0.5
    return attend(flat[0], flat[1], flat[2], layout, scaling, sliding_window, softcap)[None], None


def _packed_mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """Packed rows carry their own layout, so the model's mask would only cost memory."""
    return sdpa_mask(*args, **kwargs) if kwargs.get("attention_mask") is not None else None


AttentionInterface.register(NAME, _packed_attention)
AttentionMaskInterface.register(NAME, _packed_mask)


def use_packed_attention(language_model: PreTrainedModel) -> None:
    """Let a language model attend by the `layout` that its forward is given."""
    language_model.set_attn_implementation(NAME)

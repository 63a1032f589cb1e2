"""The backbone's forward pass over new positions behind a cache: transformers' own, or a lean one for small Llamas.

A small model on a CPU spends most of its time between the matrix products: module calls, mask building, one small
operation after the other. The lean pass does the same mathematics with fused projections and fused norms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional

from vlm_backbones.vlm.grouped_attention import attend_grouped
from vlm_backbones.vlm.llama_layers import is_plain_layer
from vlm_backbones.vlm.products import product, product_add

__all__ = ["Backbone", "LeanLlama", "build_backbone"]

# Fused projections are copies: models above this size keep transformers' own pass.
LEAN_PARAMETERS = 200_000_000


class Backbone(Protocol):
    """One forward pass; the cache grows by the new positions."""

    def __call__(
        self, embeddings: torch.Tensor, visible: torch.Tensor | None, positions: torch.Tensor, cache: Any, read: int
    ) -> torch.Tensor:
        """Return (batch, read, hidden).

        Parameters
        ----------
        embeddings
            (batch, new, hidden).
        visible
            (batch, new, cached + new), bool: what each new position attends to; None with an empty cache where each
            sees itself and all before it, which kernels compute faster than a mask.
        positions
            (batch, new).
        cache
            A transformers cache that holds the earlier positions.
        read
            How many of the new positions, from the last, are returned.
        """
        ...


def build_backbone(language_model: Any, *, compiled: bool = False) -> Backbone:
    """Return the pass that suits a backbone; transformers' own where steps are compiled, as it is made for that."""
    layers = list(language_model.layers) if hasattr(language_model, "layers") else []
    small = sum(parameter.numel() for parameter in language_model.parameters()) <= LEAN_PARAMETERS
    if layers and small and not compiled and all(is_plain_layer(layer) for layer in layers):
        return LeanLlama(language_model)
    return _OwnPass(language_model)


class _OwnPass:
    """The model's own forward, with the visibility as an additive mask, which every implementation but flash takes."""

    def __init__(self, language_model: Any) -> None:
        self.language_model = language_model

    def __call__(
        self, embeddings: torch.Tensor, visible: torch.Tensor | None, positions: torch.Tensor, cache: Any, read: int
    ) -> torch.Tensor:
        hidden: torch.Tensor = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=None if visible is None else self._masks(visible, embeddings.dtype),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden[:, hidden.shape[1] - read :]

    def _masks(self, visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return the additive mask, (batch, 1, new, cached + new), or one for each of the model's kinds of layer.

        A mask of our own takes the place of the model's, so the windows of its layers have to be in it.
        """
        config = self.language_model.config
        window = getattr(config, "sliding_window", None)
        full = _additive(visible, dtype)
        if window is None or visible.shape[-1] <= window:
            return full
        windowed = _additive(_within(visible, window), dtype)
        kinds = getattr(config, "layer_types", None)
        return windowed if kinds is None else {"full_attention": full, "sliding_attention": windowed}


def _within(visible: torch.Tensor, window: int) -> torch.Tensor:
    """Return what is visible no further back than `window` tokens, itself included, whatever padding lies between."""
    tokens_back = visible.flip(-1).cumsum(-1).flip(-1)
    return visible & (tokens_back <= window)


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


@dataclass(frozen=True)
class _Layer:
    """A layer's weights, those that share an input in one matrix."""

    attention_norm: torch.Tensor
    query_key_value: torch.Tensor
    output: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class LeanLlama:
    """A pass of its own for small Llamas in float32 on a CPU."""

    def __init__(self, language_model: Any) -> None:
        config = language_model.config
        self.rotary, self.norm = language_model.rotary_emb, language_model.norm.weight
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.size = language_model.layers[0].self_attn.head_dim
        self.epsilon = config.rms_norm_eps
        self.layers = [_fused(layer) for layer in language_model.layers]

    def __call__(
        self, embeddings: torch.Tensor, visible: torch.Tensor | None, positions: torch.Tensor, cache: Any, read: int
    ) -> torch.Tensor:
        cos, sin = self.rotary(embeddings, position_ids=positions)  # (batch, new, head_size)
        half = self.size // 2
        tables = cos[:, :, None, :half], sin[:, :, None, :half]
        mask = None
        if visible is not None and not bool(visible.all()):
            # A place that sees nothing is padding; it sees everything instead, so that its softmax is defined.
            mask = (visible | ~visible.any(-1, keepdim=True))[:, None]
        hidden, new = embeddings, embeddings.shape[1]
        for index, layer in enumerate(self.layers):
            kept = read if layer is self.layers[-1] else new
            hidden = self._layer(hidden, layer, index, mask, tables, cache, kept, causal=visible is None)
        return functional.rms_norm(hidden, self.norm.shape, self.norm, self.epsilon)

    def _layer(
        self,
        hidden: torch.Tensor,
        layer: _Layer,
        index: int,
        mask: torch.Tensor | None,
        tables: tuple[torch.Tensor, torch.Tensor],
        cache: Any,
        kept: int,
        *,
        causal: bool,
    ) -> torch.Tensor:
        """Return the last `kept` of the new positions after one layer; the cache takes all of them."""
        batch, new, width = hidden.shape
        normed = functional.rms_norm(hidden, (width,), layer.attention_norm, self.epsilon)
        states = product(normed, layer.query_key_value).view(batch, new, -1, self.size)
        turned = _rotated(states[:, :, : self.heads + self.key_heads], *tables)
        query, key = turned.transpose(1, 2).split([self.heads, self.key_heads], dim=1)  # (batch, heads, new, size)
        value = states[:, :, self.heads + self.key_heads :].transpose(1, 2)
        key, value = cache.update(key, value, index)
        if kept == 0:
            return hidden[:, :0]
        if kept < new:
            hidden, query = hidden[:, new - kept :], query[:, :, new - kept :]
            mask = None if mask is None else mask[:, :, new - kept :]
            assert not causal or kept == 1  # the last place sees all; a few of the last would need a mask
            causal = False
        attended = attend_grouped(query, key, value, mask, causal=causal)
        hidden = product_add(attended.transpose(1, 2).reshape(batch, kept, -1), layer.output, hidden)
        normed = functional.rms_norm(hidden, (width,), layer.mlp_norm, self.epsilon)
        gate, up = product(normed, layer.gate_up).chunk(2, dim=-1)
        return product_add(functional.silu(gate) * up, layer.down, hidden)


def _fused(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        attention_norm=layer.input_layernorm.weight.detach(),
        query_key_value=torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]).detach(),
        output=attention.o_proj.weight.detach(),
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).detach(),
        down=mlp.down_proj.weight.detach(),
    )


def _rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate (batch, new, heads, size) by rotary tables (batch, new, 1, size / 2)."""
    left, right = states.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)

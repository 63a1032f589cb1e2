"""Llama layers for training small models on a CPU: the same mathematics in fewer, chunked passes over memory.

On a CPU a small model spends as long on element-wise work as on matrix products, because every intermediate goes
through main memory. Here the gated MLP runs in chunks of tokens whose intermediates stay in the processor's cache,
norms and rotations are written out by hand with their gradients, and the last MLP computes only the tokens whose
hidden state is read. Weights and checkpoints stay transformers' own; outside training nothing changes.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn

from vlm_backbones.data.collation import AttentionLayout
from vlm_backbones.data.packed_attention import attend
from vlm_backbones.vlm.llama_layers import is_plain_layer
from vlm_backbones.vlm.products import linear, product, product_add, weight_gradient

_CHUNK = 512
"""Tokens a chunk: with widths of a few hundred, its intermediates fit a core's cache."""

Tensor = torch.Tensor


def use_fast_layers(language_model: Any) -> bool:
    """Replace the forward of every decoder layer where all of them can be; return whether that was done."""
    layers: list[Any] = list(language_model.layers)
    if not all(is_plain_layer(layer) for layer in layers):
        return False
    for layer in layers:
        layer.forward = MethodType(_fast_forward, layer)
        layer.is_last = layer is layers[-1]
    return True


def _fast_forward(
    layer: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    layout: AttentionLayout | None = None,
    **kwargs: Any,
) -> Tensor:
    """Forward of a decoder layer over one flat row; a call without layout takes the layer's own way."""
    if layout is None or position_embeddings is None:
        own = type(layer).forward(
            layer, hidden_states, attention_mask, position_embeddings=position_embeddings, **kwargs
        )
        return own  # type: ignore[no-any-return]
    attention, mlp = layer.self_attn, layer.mlp
    flat = hidden_states[0]  # (tokens, hidden)
    cos, sin = (table[0] for table in position_embeddings)  # (tokens, head_size)
    norm = layer.input_layernorm
    query, key_value = _NormProjectRotate.apply(
        flat, norm.weight, attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight, cos, sin,
        norm.variance_epsilon,
    )  # fmt: skip
    attended = attend_flat(query, key_value, layout, attention.head_dim, attention.scaling)
    flat = flat + linear(attended, attention.o_proj.weight)
    norm = layer.post_attention_layernorm
    weights = (norm.weight, mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
    rows = layout.read if layer.is_last else None
    if rows is None:
        return _GatedMlp.apply(flat, *weights, norm.variance_epsilon)[None]  # type: ignore[no-any-return]
    chosen = flat.index_select(0, rows)
    return flat.index_copy(0, rows, _GatedMlp.apply(chosen, *weights, norm.variance_epsilon))[None]


def attend_flat(query: Tensor, key_value: Tensor, layout: AttentionLayout, head_size: int, scaling: float) -> Tensor:
    """Return attention of flat tokens; query (tokens, heads * size), key_value (tokens, 2 * key heads * size)."""
    tokens, width = query.shape
    key, value = key_value.view(tokens, 2, -1, head_size).unbind(1)
    return attend(query.view(tokens, -1, head_size), key, value, layout, scaling).reshape(tokens, width)


def _rotate(states: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> None:
    """Rotate (tokens, heads, size) in place by the rotary tables (tokens, size/2); `back` is the transpose."""
    half = states.shape[-1] // 2
    left, right = states[..., :half], states[..., half:]
    cos, sin = cos[:, None], -sin[:, None] if back else sin[:, None]
    turned = left * cos - right * sin
    right.mul_(cos).addcmul_(left, sin)
    left.copy_(turned)


class _NormProjectRotate(torch.autograd.Function):
    """RMSNorm, the three projections as one product, and the rotation of queries and keys."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm: Tensor, query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor,
        epsilon: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        half = cos.shape[-1] // 2
        cos, sin = cos[:, :half].contiguous(), sin[:, :half].contiguous()
        inverse = torch.rsqrt(_mean_square(x) + epsilon)
        normed = x * inverse * norm
        queries = product(normed, query)
        key_values = product(normed, torch.cat([key, value]))
        size = 2 * half
        _rotate(queries.view(len(x), -1, size), cos, sin)
        _rotate(key_values[:, : key.shape[0]].view(len(x), -1, size), cos, sin)
        ctx.save_for_backward(x, norm, query, key, value, cos, sin, inverse, normed)
        return queries, key_values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, query, key, value, cos, sin, inverse, normed = ctx.saved_tensors
        size, keys = 2 * cos.shape[-1], key.shape[0]
        grad = torch.cat(grads, dim=1)  # a copy that may be rotated in place
        rotated = grad[:, : query.shape[0] + keys].view(len(x), -1, size)
        _rotate(rotated, cos, sin, back=True)
        weight = torch.cat([query, key, value])
        grad_weights: tuple[Tensor | None, ...] = (None, None, None)
        if ctx.needs_input_grad[2]:
            grad_weights = weight_gradient(grad, normed).split([query.shape[0], keys, keys])
        grad_x, grad_norm = _norm_backward(product(grad, weight.T), x, norm, inverse)
        return grad_x, grad_norm if ctx.needs_input_grad[1] else None, *grad_weights, None, None, None


class _GatedMlp(torch.autograd.Function):
    """x + down(silu(gate(norm(x))) * up(norm(x))), in chunks of tokens."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, gate: Tensor, up: Tensor, down: Tensor, epsilon: float) -> Tensor:
        both = torch.cat([gate, up])
        width = gate.shape[0]
        inverse = torch.rsqrt(_mean_square(x) + epsilon)
        outputs, kept = [], []
        for rows in _chunks(len(x)):
            normed = (x[rows] * inverse[rows]).mul_(norm)
            gates_up = product(normed, both)
            gates, ups = gates_up.split(width, dim=1)
            active = nn.functional.silu(gates)
            outputs.append(product_add(active * ups, down, x[rows]))
            kept += [gates_up, active]
        ctx.save_for_backward(x, norm, both, down, inverse, *kept)
        return torch.cat(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, both, down, inverse, *kept = ctx.saved_tensors
        grad, width = grads[0].contiguous(), down.shape[1]
        grad_both, grad_down, grad_norm = torch.zeros_like(both), torch.zeros_like(down), torch.zeros_like(norm)
        grad_x, trains = torch.empty_like(x), ctx.needs_input_grad[2]
        for rows, gates_up, active in zip(_chunks(len(x)), kept[::2], kept[1::2], strict=True):
            gates, ups = gates_up.split(width, dim=1)
            grad_hidden = product(grad[rows], down.T)
            grad_gates_ups = torch.empty_like(gates_up)
            torch.mul(grad_hidden, active, out=grad_gates_ups[:, width:])
            if trains:
                grad_down += weight_gradient(grad[rows], active * ups)
            grad_gates_ups[:, :width] = torch.ops.aten.silu_backward(grad_hidden.mul_(ups), gates)
            if trains:
                normed = (x[rows] * inverse[rows]).mul_(norm)
                grad_both += weight_gradient(grad_gates_ups, normed)
            part, part_norm = _norm_backward(product(grad_gates_ups, both.T), x[rows], norm, inverse[rows])
            torch.add(part, grad[rows], out=grad_x[rows])
            grad_norm += part_norm
        if not trains:
            return grad_x, None, None, None, None, None
        return grad_x, grad_norm, grad_both[:width], grad_both[width:], grad_down, None


def _chunks(tokens: int) -> list[slice]:
    return [slice(start, min(start + _CHUNK, tokens)) for start in range(0, tokens, _CHUNK)]


def _mean_square(x: Tensor) -> Tensor:
    """Return the mean square of each row, (tokens, 1)."""
    squares: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return squares.div_(x.shape[-1])


def _norm_backward(grad: Tensor, x: Tensor, norm: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of the weight of RMSNorm; `grad` is overwritten."""
    scaled = x * inverse  # (tokens, hidden)
    grad_norm = (grad * scaled).sum(0)
    grad.mul_(norm)
    along: Tensor = torch.linalg.vecdot(grad, scaled)[:, None].div_(x.shape[-1])
    return grad.addcmul_(scaled, along, value=-1).mul_(inverse), grad_norm

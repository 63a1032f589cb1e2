"""Matrix products of float32 tensors on a CPU by oneDNN, which uses a core's full width whoever made it.

torch hands such products to MKL, which on AMD's processors uses AVX2 alone: where AVX-512 is of full width there,
oneDNN, which torch carries along, is about twice as fast, elsewhere as fast (benchmarks/RESULTS.md). The sums are the
same but for their order.
"""

from __future__ import annotations

import os
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["linear", "product", "product_add", "speed_linear_layers", "weight_gradient"]

# oneDNN keeps 1,024 programs, one a shape; micro-batches are of many: those took hundreds of MB and saved no time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

FEWEST_ROWS = 16  # of fewer, torch's own product is as fast
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

Tensor = torch.Tensor


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias, without a gradient.

    Parameters
    ----------
    x
        (..., inputs)
    weight
        (outputs, inputs); a transposed view is as good.
    bias
        (outputs,)
    """
    if _suits(x, weight):
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return found
    return functional.linear(x, weight, bias)


def product_add(x: Tensor, weight: Tensor, added: Tensor) -> Tensor:
    """Return added + x @ weight.T, without a gradient; added: (..., outputs)."""
    if _suits(x, weight):
        total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, added, weight, None, "add")
        return total
    return added + functional.linear(x, weight)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `product` with its gradients."""
    if not torch.is_grad_enabled():
        return product(x, weight, bias)
    if not _suits(x, weight):
        return functional.linear(x, weight, bias)
    found: Tensor = _Linear.apply(x, weight, bias)
    return found


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Return grad.T @ x, (outputs, inputs), of grad (tokens, outputs) and x (tokens, inputs)."""
    if grad.shape[1] > x.shape[1]:  # the product copies what stands left: let that be the narrower
        return product(x.T, grad.T).T
    return product(grad.T, x.T)


def speed_linear_layers(module: nn.Module) -> None:
    """Let the plain linear layers inside a module use `linear`."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_x = product(flat, weight.T).view(x.shape) if needs_x else None
        grad_weight = weight_gradient(flat, x.reshape(-1, x.shape[-1])) if needs_weight else None
        return grad_x, grad_weight, flat.sum(0) if needs_bias else None


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        _HAS_ONEDNN
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() >= FEWEST_ROWS * x.shape[-1]
        and not torch.is_autocast_enabled("cpu")
    )

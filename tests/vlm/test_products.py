"""Products by oneDNN are torch's own in value and in gradient, whatever the shapes and strides."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vlm_backbones.vlm.products import FEWEST_ROWS, linear, product, product_add, speed_linear_layers


@pytest.mark.parametrize("shape", [(40, 24), (2, 20, 24), (FEWEST_ROWS - 1, 24), (0, 24), (1, 24)])
def test_values_are_torchs_own(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(16, 24), torch.randn(16)
    added = torch.randn(*shape[:-1], 16)
    wanted = nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(product(x, weight, bias), wanted)
    torch.testing.assert_close(product_add(x, weight, added), added + wanted - bias)


def test_views_are_as_good_as_copies() -> None:
    torch.manual_seed(0)
    weight, wide = torch.randn(24, 16), torch.randn(40, 64)
    torch.testing.assert_close(product(wide[:, 8:32], weight.T), wide[:, 8:32] @ weight)
    torch.testing.assert_close(product(wide.T, wide[:, :40]), wide.T @ wide[:, :40].T)


@pytest.mark.parametrize("has_bias", [True, False])
def test_gradients_are_torchs_own(has_bias: bool) -> None:
    torch.manual_seed(0)
    own = nn.Linear(24, 16, bias=has_bias)
    fast = copy.deepcopy(own)
    speed_linear_layers(fast)
    x = torch.randn(3, 20, 24)
    results = []
    for layer in (own, fast):
        given = x.clone().requires_grad_()
        (layer(given) ** 2).mean().backward()
        results.append([given.grad, *(parameter.grad for parameter in layer.parameters())])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_copied_layer_uses_its_own_weights() -> None:
    layer = nn.Linear(24, 16)
    speed_linear_layers(layer)
    other = copy.deepcopy(layer)
    nn.init.zeros_(other.weight)
    nn.init.zeros_(other.bias)
    assert not other(torch.ones(20, 24)).any()
    assert layer(torch.ones(20, 24)).any()


def test_other_types_and_automatic_precision_keep_torchs_way() -> None:
    x, weight = torch.randn(32, 8), torch.randn(4, 8)
    assert linear(x.double(), weight.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16

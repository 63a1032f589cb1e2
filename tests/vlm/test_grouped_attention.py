"""Query heads that share keys and values: the same output whether the kernel shares them or they are repeated."""

from __future__ import annotations

import pytest
import torch

from vlm_backbones.vlm import grouped_attention
from vlm_backbones.vlm.grouped_attention import attend_grouped


@pytest.mark.parametrize("kind", ["added", "seen", "causal"])
def test_repeated_keys_give_what_shared_ones_give(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 6, 5, 8)
    key, value = torch.randn(2, 2, 2, 5, 8)
    seen = torch.ones(5, 5).tril().bool()[None, None]
    mask = {"added": torch.where(seen, 0.0, -torch.inf), "seen": seen, "causal": None}[kind]
    shared = attend_grouped(query, key, value, mask, causal=mask is None, scale=0.3)
    scores = (query.view(2, 2, 3, 5, 8) @ key[:, :, None].transpose(-1, -2)) * 0.3
    by_hand = scores.masked_fill(~seen[:, :, None], -torch.inf).softmax(-1) @ value[:, :, None]
    torch.testing.assert_close(shared, by_hand.view(2, 6, 5, 8))
    monkeypatch.setattr(grouped_attention, "_kernel_shares", lambda query, mask: False)
    torch.testing.assert_close(attend_grouped(query, key, value, mask, causal=mask is None, scale=0.3), shared)

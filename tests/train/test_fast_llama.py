"""The fast layers are the same function as transformers' own, in value and in gradient."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from vlm_backbones.data.collation import collate
from vlm_backbones.data.conversations import load_examples
from vlm_backbones.data.packed_attention import use_packed_attention
from vlm_backbones.data.packing import pack_examples
from vlm_backbones.train.fast_llama import use_fast_layers
from vlm_backbones.vlm import compose


def loss_and_gradients(
    model: Any, batch: dict[str, Any], pixels: torch.Tensor
) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    logits = model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], pixel_values=pixels,
        layout=batch["layout"], logits_to_keep=batch["predict_at"], use_cache=False,
    ).logits[0]  # fmt: skip
    loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
    loss.backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return float(loss.detach()), gradients


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("trains_llm", [True, False])
def test_fast_layers_give_the_loss_and_gradients_of_the_own_layers(
    tiny_parts: ModuleType, parts: Path, tmp_path: Path, kv_heads: int, trains_llm: bool
) -> None:
    backbone = tiny_parts.build_backbone(tmp_path / "backbone", kv_heads=kv_heads, layers=3)
    model, processor = compose(backbone, parts / "tower")
    model.model.language_model.requires_grad_(trains_llm)
    examples = load_examples([parts / "data"])[4:12]
    packed = pack_examples(
        examples, processor.tokenizer, processor.chat_template, image_token_id=model.config.image_token_id,
        image_tokens=17, max_length_tokens=256,
    )  # fmt: skip
    pixels = processor.image_processor([example.image.open() for example in examples if example.image],
                                       return_tensors="pt")["pixel_values"]  # fmt: skip
    batch = collate(packed, weighting="token")
    use_packed_attention(model.model.language_model)
    own_loss, own = loss_and_gradients(model, batch, pixels)
    assert use_fast_layers(model.model.language_model)
    fast_loss, fast = loss_and_gradients(model, batch, pixels)
    assert fast_loss == pytest.approx(own_loss, abs=1e-5)
    assert own.keys() == fast.keys()
    for name, gradient in own.items():
        assert torch.allclose(fast[name], gradient, atol=1e-5, rtol=1e-3), name


def test_layers_with_a_bias_keep_their_own_forward(parts: Path) -> None:
    model, _ = compose(parts / "backbone", parts / "tower")
    language_model = model.model.language_model
    language_model.layers[0].mlp.up_proj = torch.nn.Linear(32, 64, bias=True)
    assert not use_fast_layers(language_model)

"""Leak-free packing: packed turns equal the same turns asked alone, and labels are the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vlm_backbones.data.collation import answer_weights, build_layout, collate
from vlm_backbones.data.conversations import Example, Turn, load_examples
from vlm_backbones.data.packed_attention import use_packed_attention
from vlm_backbones.data.packing import PackedExample, pack_examples
from vlm_backbones.errors import DataError
from vlm_backbones.train.fast_llama import use_fast_layers
from vlm_backbones.vlm import compose


@pytest.fixture(scope="module")
def vlm(parts: Path) -> tuple[Any, Any]:
    return compose(parts / "backbone", parts / "tower")


def pack(vlm: tuple[Any, Any], examples: list[Example], longest: int = 256) -> list[PackedExample]:
    model, processor = vlm
    return pack_examples(
        examples, processor.tokenizer, processor.chat_template, image_token_id=model.config.image_token_id,
        image_tokens=17, max_length_tokens=longest,
    )  # fmt: skip


def packed_forward(model: Any, batch: dict[str, Any], pixels: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], pixel_values=pixels,
        layout=batch["layout"], logits_to_keep=batch["predict_at"], use_cache=False,
    ).logits[0]  # fmt: skip
    return logits


def packed_logits(vlm: tuple[Any, Any], batch: dict[str, Any], pixels: torch.Tensor) -> torch.Tensor:
    model, _ = vlm
    use_packed_attention(model.model.language_model)
    with torch.inference_mode():
        logits = packed_forward(model, batch, pixels)
    model.model.language_model.set_attn_implementation("sdpa")
    return logits


def turn_alone(vlm: tuple[Any, Any], example: Example, turn: Turn) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and targets of a turn's supervised tokens, asked alone through the processor."""
    model, processor = vlm
    image = [{"type": "image"}] if example.image else []
    pictures = {"images": example.image.open()} if example.image else {}
    messages = [
        {"role": "user", "content": [*image, {"type": "text", "text": turn.question}]},
        {"role": "assistant", "content": [{"type": "text", "text": turn.answer}]},
    ]
    prompt = processor.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
    full = processor.apply_chat_template(messages, tokenize=False)
    before = processor(**pictures, text=prompt, add_special_tokens=False, return_tensors="pt")["input_ids"].shape[1]
    inputs = processor(**pictures, text=full, add_special_tokens=False, return_tensors="pt")
    return model(**inputs).logits[0, before - 1 : -1], inputs["input_ids"][0, before:]


def test_packed_turns_give_the_logits_of_single_turns_through_the_processor(vlm: Any, parts: Path) -> None:
    _, processor = vlm
    examples = load_examples([parts / "data"])
    chosen = [examples[0], examples[-1]]  # a scene of six turns and a map of seven
    images = [example.image.open() for example in chosen if example.image]
    pixels = processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
    together = packed_logits(vlm, collate(pack(vlm, chosen), weighting="token"), pixels)
    with torch.inference_mode():
        alone = [turn_alone(vlm, example, turn)[0] for example in chosen for turn in example.turns]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


@pytest.mark.parametrize("fast", [False, True], ids=["transformers' layers", "fast layers"])
def test_packed_turns_give_the_loss_and_the_gradients_of_single_turns(parts: Path, fast: bool) -> None:
    """A step of scenes, a map and a row without picture: one packed pass against one pass a turn."""
    model, processor = vlm = compose(parts / "backbone", parts / "tower")
    examples = load_examples([parts / "data"])
    text = Example("text", None, (Turn("Is a star round?", "no", "row 0"), Turn("How many?", "12", "row 0")))
    chosen = [*examples[:2], text, examples[-1]]

    turns = [turn_alone(vlm, example, turn) for example in chosen for turn in example.turns]
    supervised = sum(len(targets) for _, targets in turns)
    alone = sum(nn.functional.cross_entropy(*turn, reduction="sum") for turn in turns) / supervised
    wanted = gradients(model, alone)

    batch = collate(pack(vlm, chosen), weighting="token")
    use_packed_attention(model.model.language_model)
    assert not fast or use_fast_layers(model.model.language_model)
    images = [example.image.open() for example in chosen if example.image]
    pixels = processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
    together = nn.functional.cross_entropy(packed_forward(model, batch, pixels), batch["labels"])
    found = gradients(model, together)

    assert len(batch["labels"]) == supervised
    assert abs(together.item() - alone.item()) < 1e-5
    assert found.keys() == wanted.keys()
    assert any(float(value.abs().max()) > 1e-2 for value in wanted.values())  # the bound below says something
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=name)


def gradients(model: Any, loss: Any) -> dict[str, torch.Tensor]:
    """Return the gradient of every parameter that the loss reaches: tower, projector and LLM."""
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_labels_are_exactly_the_answers_and_the_end_of_turn(vlm: Any, parts: Path) -> None:
    _, processor = vlm
    examples = load_examples([parts / "data"])
    for example, packed in zip(examples, pack(vlm, examples), strict=True):
        wanted = "".join(f" {turn.answer}{processor.tokenizer.eos_token}" for turn in example.turns)
        assert processor.tokenizer.decode(packed.targets) == wanted


def test_positions_restart_after_the_prefix(vlm: Any, parts: Path) -> None:
    packed = pack(vlm, load_examples([parts / "data"]))[0]
    prefix, first, *_ = packed.lengths
    assert packed.positions[: prefix + first].tolist() == list(range(prefix + first))
    assert packed.positions[prefix + first] == prefix
    assert sum(packed.lengths) == len(packed.ids)


def test_a_turn_sees_its_prefix_and_itself_only() -> None:
    layout = build_layout([(2, 3, 1), (0, 2)])  # tokens 0-1 prefix, 2-4 and 5 turns; 6-7 a turn without image
    seen = {}
    for block in layout.blocks:
        rows, _, queries, keys = block.mask.shape
        for row in range(rows):
            for query in range(queries):
                token = int(block.queries.view(rows, queries)[row, query])
                visible = block.mask[row, 0, query] == 0
                seen.setdefault(token, set()).add(frozenset(block.keys.view(rows, keys)[row][visible].tolist()))
    assert frozenset({0, 1, 5}) in seen[5]
    assert seen[4] == {frozenset({0, 1, 2, 3, 4})}
    assert seen[7] == {frozenset({6, 7})}
    assert layout.inverse.numel() == 8


def test_inverse_sqrt_length_gives_an_answer_of_n_tokens_the_weight_sqrt_n(vlm: Any, parts: Path) -> None:
    packed = pack(vlm, load_examples([parts / "data"])[:1])[0]
    weights = answer_weights(packed, "inverse_sqrt_length")
    assert weights[0] == pytest.approx(packed.answer_sizes[0] ** -0.5)
    assert np.all(answer_weights(packed, "token") == 1)


def test_a_question_longer_than_the_context_is_refused_with_its_row(vlm: Any) -> None:
    turn = Turn("How " * 200 + "many?", "2", "rows.json row 7")
    with pytest.raises(DataError, match=r"rows\.json row 7.*leaves no room"):
        pack(vlm, [Example("long", None, (turn,))], longest=64)


def test_a_long_answer_is_cut_and_counted(vlm: Any) -> None:
    packed = pack(vlm, [Example("long", None, (Turn("Why?", "because " * 100, "row 1"),))], longest=64)[0]
    assert packed.truncated == 1
    assert len(packed.ids) == 64


def test_a_chain_of_turns_is_one_causal_sequence(vlm: Any) -> None:
    turns = (Turn("One?", "1", "row 0"), Turn("Two?", "2", "row 0"))
    packed = pack(vlm, [Example("chain", None, turns, independent=False)])[0]
    assert len(packed.lengths) == 2  # an empty prefix and one sequence
    assert packed.positions.tolist() == list(range(len(packed.ids)))

"""Every kind of LLM in the registry keeps its own mathematics inside a VLM: in training, and in evaluation."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from vlm_backbones.backbones import list_backbones
from vlm_backbones.data.collation import collate
from vlm_backbones.data.conversations import Example, Turn
from vlm_backbones.data.packed_attention import use_packed_attention
from vlm_backbones.data.packing import PackedExample, pack_examples
from vlm_backbones.errors import CheckpointError
from vlm_backbones.model_wrappers._backbone import build_backbone
from vlm_backbones.model_wrappers._cache import build_cache
from vlm_backbones.vlm import compose

GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 12, "tie_word_embeddings": True}
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"]}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {}, "mistral": {"sliding_window": 12}, "phi3": {"sliding_window": 12}, "qwen2": {}, "qwen3": {},
    "olmo2": {}, "gemma2": {**GEMMA, **ALTERNATING, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**GEMMA, **ALTERNATING},
}  # fmt: skip
TURNS = [("How many red circles are there?", "3"), ("What colour is the star?", "blue"), ("Is it?", "yes it is")]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tiny_parts: ModuleType, parts: Path, tmp_path_factory: Any) -> Path:
    kind = request.param
    made: Path = tiny_parts.build_backbone_like(tmp_path_factory.mktemp(kind), parts / "backbone", kind, **KINDS[kind])
    return made


def test_the_kinds_are_those_of_the_registry() -> None:
    rows = [row.config for row in list_backbones() if row.config]
    assert len(rows) == 34
    assert {str(config["model_type"]) for config in rows} == set(KINDS)


def test_text_alone_gets_the_llms_own_logits(folder: Path, parts: Path) -> None:
    llm = AutoModelForCausalLM.from_pretrained(folder)
    model, processor = compose(folder, parts / "tower")
    ids = processor.tokenizer("What colour is the star? " * 4, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        own, composed = (kind(input_ids=ids).logits for kind in (llm, model))
    if cap := getattr(llm.config, "final_logit_softcapping", None):  # which Llava has no place for
        composed = cap * torch.tanh(composed / cap)
    assert torch.allclose(own, composed[..., : own.shape[-1]], atol=1e-5)


def packed_turns(model: Any, processor: Any) -> PackedExample:
    turns = tuple(Turn(question, answer, "row 0") for question, answer in TURNS)
    (packed,) = pack_examples(
        [Example("0", None, turns, independent=True)], processor.tokenizer, processor.chat_template,
        image_token_id=model.config.image_token_id, image_tokens=17, max_length_tokens=256,
    )  # fmt: skip
    return packed


def test_packed_turns_are_trained_as_each_is_asked_alone(folder: Path, parts: Path) -> None:
    """Also where a layer sees twelve tokens back only, or bends its scores."""
    model, processor = compose(folder, parts / "tower")
    packed = packed_turns(model, processor)
    assert min(packed.lengths[1:]) > 12
    alone, start = [], 0
    for length in packed.lengths[1:]:
        turn = torch.from_numpy(packed.ids[start : start + length])[None]
        with torch.inference_mode():
            logits = model(input_ids=turn).logits[0]
        alone += [logits[place - start] for place in packed.predict_at if start <= place < start + length]
        start += length
    batch = collate([packed], weighting="token")
    use_packed_attention(model.model.language_model)
    with torch.inference_mode():
        together = model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], layout=batch["layout"],
            logits_to_keep=batch["predict_at"], use_cache=False,
        ).logits[0]  # fmt: skip
    assert torch.allclose(together, torch.stack(alone), atol=1e-4)
    assert batch["layout"].calls.count == 2  # one a layer


def test_rows_of_different_length_are_evaluated_as_each_alone(folder: Path, parts: Path) -> None:
    model, _ = compose(folder, parts / "tower")
    language_model = model.model.language_model
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(1, length, 32, generator=generator) for length in (30, 20)]
    padded = torch.cat([rows[0], torch.nn.functional.pad(rows[1], (0, 0, 10, 0))])
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[1, :10] = False
    visible = mask[:, None] & torch.ones(30, 30, dtype=torch.bool).tril()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        together = build_backbone(language_model)(padded, visible, positions, build_cache(), 1)
        alone = [language_model(inputs_embeds=row).last_hidden_state[:, -1:] for row in rows]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


def test_the_projector_starts_at_the_size_of_words_as_the_layers_see_them(
    tiny_parts: ModuleType, parts: Path, tmp_path: Path
) -> None:
    """Gemma multiplies its embeddings by the square root of their width before the first layer."""
    sizes = []
    for kind in ("llama", "gemma3_text"):
        made = tiny_parts.build_backbone_like(tmp_path / kind, parts / "backbone", kind, **KINDS[kind])
        model, _ = compose(made, parts / "tower")
        sizes.append(float(model.model.multi_modal_projector.linear_2.weight.detach().std()))
    assert sizes[1] / sizes[0] == pytest.approx(32**0.5, rel=0.1)


def test_an_llm_that_is_built_in_another_way_is_refused(tiny_parts: ModuleType, parts: Path, tmp_path: Path) -> None:
    made = tiny_parts.build_backbone_like(tmp_path / "gpt2", parts / "backbone", "gpt2")
    with pytest.raises(CheckpointError, match="a gpt2 keeps its embeddings or layers under other names"):
        compose(made, parts / "tower")


@pytest.mark.parametrize(
    ("kind", "config"), [("phi", {}), ("cohere", {"logit_scale": 0.25}), ("granite", {"logits_scaling": 4.0})]
)
def test_an_llm_that_does_more_with_its_logits_is_refused(
    tiny_parts: ModuleType, parts: Path, tmp_path: Path, kind: str, config: dict[str, Any]
) -> None:
    made = tiny_parts.build_backbone_like(tmp_path / kind, parts / "backbone", kind, **config)
    with pytest.raises(CheckpointError, match=r"a bias or a scale comes after it.*Choose another backbone"):
        compose(made, parts / "tower")

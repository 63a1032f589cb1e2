"""The text that pocket backbones are pretrained on, and how its tables and turns reach the model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vlm_backbones.pocket.make.__main__ import ASSETS, BACKBONES
from vlm_backbones.pocket.make.corpus import Passage, sample_passage
from vlm_backbones.pocket.make.map_table import MAP_CELLS, map_table
from vlm_backbones.pocket.make.pretrain import _embed, _pack
from vlm_backbones.prompts import caption_prompt, description_prompt

PLAN = BACKBONES[0]


def passages(count: int, progress: float = 0.99) -> list[Passage]:
    rng, seen = np.random.default_rng(5), Counter[tuple[str, str]]()
    return [sample_passage(seen, rng, progress=progress) for _ in range(count)]


def test_a_passage_is_text_or_a_table_of_a_lead_and_sixteen_cells() -> None:
    drawn = passages(200)
    assert all(bool(passage.facts) != bool(passage.table) for passage in drawn)
    tables = [passage.table for passage in drawn if passage.table]
    assert 80 < len(tables) < 180
    assert {len(table) for table in tables} == {17}
    assert {table[6][:2] for table in tables} == {("b", "2")}


def test_a_scene_table_holds_what_its_caption_says_where_it_says() -> None:
    scenes = [passage for passage in passages(60) if dict(passage.turns).get(caption_prompt())]
    assert len(scenes) > 10
    for passage in scenes:
        caption = dict(passage.turns)[caption_prompt()]
        for row, column, *words in passage.table[1:]:
            if words:
                place = f"row {'abcd'.index(row) + 1} column {column}"
                assert f"a{''.join(words)} in {place}" in caption
        assert sum(len(cell) == 5 for cell in passage.table) == caption.count("column")


def test_a_map_table_holds_its_description() -> None:
    maps = [passage for passage in passages(100) if passage.table and description_prompt() in dict(passage.turns)]
    assert len(maps) > 10
    for passage in maps:
        description = dict(passage.turns)[description_prompt()]
        for name in ("region", "quadrant", "max_intensity"):
            assert passage.table[1 + MAP_CELLS[name]][2] in description


def test_digits_of_a_map_stand_in_their_own_cells() -> None:
    targets = {"magnitude": 6.3, "depth_km": 24, "region": "Japan", "quadrant": "northeast", "max_intensity": "VI"}
    cells = map_table(targets)
    assert [cells[MAP_CELLS[name]] for name in ("magnitude_ones", "magnitude_tenths")] == ["6", "3"]
    assert [cells[MAP_CELLS[f"depth_{name}"]] for name in ("hundreds", "tens", "ones")] == ["0", "2", "4"]


def test_the_first_part_of_training_asks_about_single_cells_of_few_objects() -> None:
    first = [passage for passage in passages(40, progress=0.0) if caption_prompt() in dict(passage.turns)]
    assert all(sum(len(cell) == 5 for cell in passage.table) == 2 for passage in first)
    assert not any(question.startswith(("How many", "Is ", "Are ")) for p in first for question, _ in p.turns)


def test_the_second_stage_asks_mostly_where_things_are() -> None:
    last = [passage for passage in passages(40, progress=1.0) if caption_prompt() in dict(passage.turns)]
    asked = [question for passage in last for question, _ in passage.turns]
    assert sum("Where is" in text or "quarter" in text or "Is the" in text for text in asked) > len(asked) / 2


def test_a_cell_is_the_sum_of_its_words_and_a_turn_sees_the_facts_alone() -> None:
    model = AutoModelForCausalLM.from_pretrained(ASSETS / PLAN.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / PLAN.name)
    passage = next(passage for passage in passages(20) if passage.table)
    batch = _pack([passage], PLAN.chat, tokenizer, PLAN.context_tokens)
    embedded = _embed(model, batch.words)
    lead = len(tokenizer(PLAN.chat.before_question, add_special_tokens=False).input_ids)
    words = tokenizer(list(passage.table[1]), add_special_tokens=False).input_ids
    flat = torch.tensor([token for ids in words for token in ids])
    expected = model.get_input_embeddings()(flat).sum(0) / len(flat) ** 0.5
    torch.testing.assert_close(embedded[lead + 1], expected)

    from vlm_backbones.data.packed_attention import use_packed_attention

    use_packed_attention(model)
    with torch.no_grad():
        together = answer_logits(model, batch)
        alone = [
            answer_logits(model, _pack([replace(passage, turns=(turn,))], PLAN.chat, tokenizer, PLAN.context_tokens))
            for turn in passage.turns
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def answer_logits(model: torch.nn.Module, batch: object) -> torch.Tensor:
    packed = batch.packed  # type: ignore[attr-defined]
    hidden = model.model(
        inputs_embeds=_embed(model, batch.words)[None],  # type: ignore[attr-defined]
        position_ids=packed["position_ids"], layout=packed["layout"], use_cache=False,
    ).last_hidden_state[0]  # fmt: skip
    return model.lm_head(hidden[packed["predict_at"]])


def test_a_turn_longer_than_the_context_is_left_out() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / PLAN.name)
    passage = Passage("Japan", (), (("What is this?", "Japan"), ("What? " * 200, "no")))
    batch = _pack([passage], PLAN.chat, tokenizer, PLAN.context_tokens)
    assert len(batch.words) < 60
    assert tokenizer.decode(batch.packed["labels"]) == " Japan</s>"


@pytest.mark.parametrize("plan", BACKBONES, ids=lambda plan: plan.name)
def test_every_word_of_a_table_is_one_token(plan: object) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / plan.name)  # type: ignore[attr-defined]
    words = {word for passage in passages(300) for cell in passage.table for word in cell}
    assert len(words) > 40
    assert not {word for word in words if len(tokenizer(word, add_special_tokens=False).input_ids) > 1}

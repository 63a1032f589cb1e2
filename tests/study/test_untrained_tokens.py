"""Rows of an embedding that nobody trained are seen from the rows alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from vlm_backbones._untrained_tokens import untrained_tokens
from vlm_backbones.backbones import Backbone
from vlm_backbones.control import _untrained

STD = 0.02
VOCABULARY, WIDTH = 512, 256  # as many rows as are looked at, so that their mean is known
ZERO, MEAN, COPY, DRAWN, TRAINED, BEYOND = 500, 501, 502, 503, 504, 512
USED = {ZERO, MEAN, COPY, DRAWN, TRAINED, BEYOND, 7}
SAID = {
    f"<{ZERO}>": "its row is zero",
    f"<{MEAN}>": "its row is the mean of the others",
    f"<{COPY}>": "its row is a copy of another",
    f"<{DRAWN}>": "its row is random",
    f"<{BEYOND}>": "not among the backbone's own: its row starts at the mean",
}


@pytest.fixture
def table() -> NDArray[np.float32]:
    """Rows as training leaves them, wider than a draw, and one of each other kind."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (VOCABULARY, WIDTH)).astype(np.float32)
    rows[ZERO] = 0
    rows[COPY] = rows[7]
    rows[DRAWN] = rng.normal(0, STD, WIDTH)
    rows[MEAN] = np.delete(rows, MEAN, axis=0).mean(0)
    return rows


def write_weights(folder: Path, table: NDArray[np.float32], name: str = "model.embed_tokens.weight") -> Backbone:
    """Two shards; the embedding is not in the first."""
    save_file({"lm_head.weight": torch.zeros(2, 2)}, folder / "model-1.safetensors")
    save_file({name: torch.from_numpy(table)}, folder / "model-2.safetensors")
    return Backbone(id="b", family="llama", local_path=str(folder))


def reasons(row: Backbone, used: set[int], *, std: float = STD) -> dict[str, str]:
    tokenizer = SimpleNamespace(
        added_tokens_decoder=dict.fromkeys([ZERO, MEAN, COPY, DRAWN, TRAINED, BEYOND], ""),
        convert_ids_to_tokens=lambda token: f"<{token}>",
    )
    config = SimpleNamespace(vocab_size=VOCABULARY, initializer_range=std)
    return untrained_tokens(row, tokenizer, config, used)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "transformer.wte.weight"])
def test_each_kind_of_row_is_told(tmp_path: Path, table: NDArray[np.float32], name: str) -> None:
    row = write_weights(tmp_path, table, name)
    assert reasons(row, USED) == SAID
    assert reasons(row, {ZERO, 7, TRAINED}) == {f"<{ZERO}>": "its row is zero"}  # 7 is no added token
    assert reasons(row, {TRAINED}) == reasons(row, set()) == {}


@pytest.mark.parametrize("is_indexed", [True, False])
def test_rows_are_read_where_the_hubs_cache_keeps_them(
    tmp_path: Path, table: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch, is_indexed: bool
) -> None:
    snapshot = tmp_path / "models--lab--llm" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--lab--llm" / "refs").mkdir()
    (tmp_path / "models--lab--llm" / "refs" / "main").write_text("abc")
    write_weights(snapshot, table)
    if is_indexed:
        weights = {"lm_head.weight": "model-1.safetensors", "model.embed_tokens.weight": "model-2.safetensors"}
        (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    else:
        (snapshot / "model-2.safetensors").rename(snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert reasons(Backbone(id="b", family="llama", hub_repo="lab/llm"), USED) == SAID


def test_a_draw_has_the_mean_the_spread_and_the_tails_of_one(tmp_path: Path, table: NDArray[np.float32]) -> None:
    draw = table[DRAWN].copy()
    for other in (draw + STD, 1.15 * draw, 0.85 * draw, STD * np.sign(draw)):
        table[DRAWN] = other
        assert f"<{DRAWN}>" not in reasons(write_weights(tmp_path, table), USED)


def test_of_a_backbone_that_was_hardly_trained_no_row_is_called_random(
    tmp_path: Path, table: NDArray[np.float32]
) -> None:
    """One row in twenty may look like a draw; from there on nothing can be said."""
    rng = np.random.default_rng(1)
    few, many = 20, 32  # of 512: below and above 5 %
    for count, is_said in ((few, True), (many, False)):
        table[8 : 8 + count] = rng.normal(0, STD, (count, WIDTH))
        said = reasons(write_weights(tmp_path, table), USED)
        assert (f"<{DRAWN}>" in said) == is_said
    assert f"<{DRAWN}>" not in reasons(write_weights(tmp_path, table), USED, std=0.0)


def test_without_weights_only_the_size_of_the_vocabulary_tells(tmp_path: Path, table: NDArray[np.float32]) -> None:
    row = Backbone(id="b", family="llama", local_path=str(tmp_path))
    assert reasons(row, USED) == {f"<{BEYOND}>": SAID[f"<{BEYOND}>"]}
    # nor does a shard that holds no embedding
    write_weights(tmp_path, table, "model.norm.weight")
    assert reasons(row, USED) == {f"<{BEYOND}>": SAID[f"<{BEYOND}>"]}
    # a table shorter than the configuration says
    write_weights(tmp_path, table[: MEAN + 1])
    assert reasons(row, {ZERO}) == {f"<{ZERO}>": "its row is zero"}


def facts(**untrained: str) -> Any:
    return SimpleNamespace(untrained_tokens=untrained)


def test_a_token_that_one_backbone_alone_never_learnt_is_a_confound() -> None:
    assert list(_untrained("b", facts(), "a", facts())) == []
    zero, random = "its row is zero", "its row is random"
    assert list(_untrained("b", facts(turn=zero), "a", facts(turn=zero))) == []  # both learn it here
    (found,) = _untrained("b", facts(turn=zero), "a", facts())
    assert found.startswith("b was never trained on the token 'turn' of its training text (its row is zero): ")
    (found,) = _untrained("b", facts(), "a", facts(turn=zero))
    assert found == "a was never trained on the token 'turn' of its training text, b was or has none."
    (found,) = _untrained("b", facts(turn=zero), "a", facts(turn=random))
    assert "b was never" in found
    # rows of two random draws differ, the backbones' own and each other's
    (found,) = _untrained("b", facts(turn=random), "a", facts(turn=random))
    assert "(its row is random)" in found

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
from transformers import AutoConfig

from vlm_backbones._confounds import _untrained
from vlm_backbones._embedding_rows import find_tables
from vlm_backbones._untrained_tokens import AddedTokens, _are_draws, _Reasons, untrained_tokens
from vlm_backbones.backbones import Backbone, get_backbone
from vlm_backbones.errors import CheckpointError

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
    index = {"weight_map": {"lm_head.weight": "model-1.safetensors", name: "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return Backbone(id="b", family="llama", local_path=str(folder))


def reasons(row: Backbone, used: set[int], *, std: float = STD) -> dict[str, str]:
    return looked_at_by_name(row, used, std).untrained


def untold(row: Backbone, used: set[int]) -> dict[str, str]:
    return looked_at_by_name(row, used, STD).untold


def looked_at_by_name(row: Backbone, used: set[int], std: float) -> AddedTokens:
    tokenizer = SimpleNamespace(
        vocab_size=ZERO,
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
    if not is_indexed:
        (snapshot / "model.safetensors.index.json").unlink()
        (snapshot / "model-2.safetensors").rename(snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert reasons(Backbone(id="b", family="llama", hub_repo="lab/llm"), USED) == SAID


def test_a_draw_has_the_mean_the_spread_and_the_tails_of_one() -> None:
    draw = np.random.default_rng(0).normal(0, STD, (1, WIDTH)).astype(np.float32)
    assert _are_draws(draw, STD)[0]
    assert not _are_draws(draw, 0.0)[0]
    for other in (draw + STD, 1.15 * draw, 0.85 * draw, STD * np.sign(draw)):
        assert not _are_draws(other.astype(np.float32), STD)[0]


def test_of_a_backbone_that_was_hardly_trained_no_row_is_called_random(
    tmp_path: Path, table: NDArray[np.float32]
) -> None:
    """Where trained rows look like a draw too, nothing can be said of any; one in a thousand is let pass."""
    assert f"<{DRAWN}>" in reasons(write_weights(tmp_path, table), USED)
    table[8:40] = np.random.default_rng(1).normal(0, STD, (32, WIDTH))
    row = write_weights(tmp_path, table)
    assert reasons(row, USED) == {f"<{key}>": SAID[f"<{key}>"] for key in (ZERO, COPY, BEYOND)}
    assert set(untold(row, USED)) == {f"<{key}>" for key in (MEAN, DRAWN, TRAINED)}


def words() -> NDArray[np.float64]:
    """A vocabulary of 32,000 trained rows, which share directions and a mean, and have sizes of their own."""
    rng = np.random.default_rng(2)
    directions = rng.normal(0, 0.001, (WIDTH, WIDTH)) * np.exp(-np.arange(WIDTH) / 60)
    sizes = rng.lognormal(0, 0.4, (32_000, 1))
    return (rng.normal(0, 1, (32_000, WIDTH)) @ directions.T) * sizes + rng.normal(0, 0.01, WIDTH)


@pytest.fixture(scope="module")
def vocabulary() -> NDArray[np.float64]:
    return words()


def rows_nobody_trained(trained: NDArray[np.float64], std: float) -> dict[str, NDArray[np.float64]]:
    rng, mean, spread = np.random.default_rng(3), trained.mean(0), trained.std()
    default = torch.distributions.MultivariateNormal(  # what transformers' resizing draws from
        torch.from_numpy(mean), torch.from_numpy(1e-9 * np.cov(trained.T, bias=True))
    )
    torch.manual_seed(0)
    return {
        "transformers' default": default.sample().numpy(),
        "the initialiser's": rng.normal(0, std, WIDTH),
        "twice as wide": rng.normal(0, 2 * std, WIDTH),
        "half as wide": rng.normal(0, std / 2, WIDTH),
        "uniform": rng.uniform(-std, std, WIDTH),
        "as wide as the table": rng.normal(0, spread, WIDTH),
        "mean and noise": mean + rng.normal(0, 0.5 * spread, WIDTH),
        "mean": mean,
        "copy": trained[77],
        "nearly a copy": trained[77] + rng.normal(0, 0.001 * spread, WIDTH),
    }


def looked_at(folder: Path, table: NDArray[np.float64], added: int, **config: Any) -> AddedTokens:
    """Look at the last rows of a table, added beyond the vocabulary."""
    tensors = {"model.embed_tokens.weight": table, "lm_head.weight": config.pop("head", table)}
    whole = {name: torch.from_numpy(rows.astype(np.float32)) for name, rows in tensors.items()}
    save_file(whole, folder / "model.safetensors")
    base = len(table) - added
    tokens = range(base, len(table))
    tokenizer = SimpleNamespace(
        vocab_size=base,
        added_tokens_decoder=dict.fromkeys(tokens, ""),
        convert_ids_to_tokens=lambda token: token - base,
    )
    settings = SimpleNamespace(**{"vocab_size": len(table), "initializer_range": STD, **config})
    row = Backbone(id="b", family="llama", local_path=str(folder))
    return untrained_tokens(row, tokenizer, settings, set(tokens))


def test_rows_that_nobody_trained_are_told_from_a_real_vocabularys(
    tmp_path: Path, vocabulary: NDArray[np.float64]
) -> None:
    rows = rows_nobody_trained(vocabulary, STD)
    found = looked_at(tmp_path, np.vstack([vocabulary, *rows.values()]), len(rows))
    said = dict(zip(rows, map(found.untrained.get, map(str, range(len(rows)))), strict=True))
    assert None not in said.values(), said
    assert {said[name] for name in ("mean", "transformers' default")} == {"its row is the mean of the others"}
    assert {said[name] for name in ("copy", "nearly a copy")} == {"its row is a copy of another"}
    assert {why for name, why in said.items() if "mean" != name != "transformers' default" and "copy" not in name} == {
        "its row is random"
    }
    assert found.untold == {}


def test_rows_that_were_trained_are_not_suspected(tmp_path: Path, vocabulary: NDArray[np.float64]) -> None:
    found = looked_at(tmp_path, vocabulary, 300)
    assert found.untrained == {}
    assert len(found.untold) == 300


def test_the_output_rows_of_a_head_of_its_own_are_looked_at(tmp_path: Path, vocabulary: NDArray[np.float64]) -> None:
    head = vocabulary.copy()
    head[-1] = np.random.default_rng(0).normal(0, head.std(), WIDTH)
    found = looked_at(tmp_path, vocabulary, 1, head=head, tie_word_embeddings=False)
    assert found.untrained == {"0": "its output row is random"}
    assert looked_at(tmp_path, vocabulary, 1, head=head, tie_word_embeddings=True).untrained == {}


@pytest.mark.parametrize("backbone", ["pocket-llama-1", "pocket-llama-2", "pocket-llama-3"])
def test_no_row_of_a_pocket_backbone_is_suspected(backbone: str) -> None:
    """Not even if it had been added: but one in a thousand."""
    row = get_backbone(backbone)
    config = AutoConfig.from_pretrained(row.source)
    (table,) = find_tables(row, config).values()
    suspected = {False: list[int](), True: list[int]()}
    for start in range(0, table.shape[0], 64):
        asked = range(start, min(start + 64, table.shape[0]))
        found = _Reasons(table, asked, asked, config.initializer_range)
        for beyond, tokens in suspected.items():
            tokens += [token for token in asked if found.of(token, beyond=beyond)]
    assert suspected[False] == []
    assert len(suspected[True]) <= 0.002 * table.shape[0]


def test_where_nothing_can_be_seen_it_is_said(tmp_path: Path, table: NDArray[np.float32]) -> None:
    row = Backbone(id="b", family="llama", local_path=str(tmp_path))
    assert set(untold(row, {TRAINED}).values()) == {
        "its weights were not read: they are not here, or hold no embedding by a known name"
    }
    torch.save({"model.embed_tokens.weight": torch.from_numpy(table)}, tmp_path / "pytorch_model.bin")
    assert untold(row, {TRAINED, 7}) == {f"<{TRAINED}>": "its weights are a pickle, which a check does not open"}
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="backbone"):
        untold(row, {TRAINED})


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

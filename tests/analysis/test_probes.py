"""Probes: scikit-learn's optimum, images never split, planted signals found and their controls at chance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from vlm_backbones.analysis.linear_probes import ridge, softmax_regression
from vlm_backbones.analysis.probe_task import Column, grouped_folds, predict_folds
from vlm_backbones.analysis.run_info import RunInfo
from vlm_backbones.analysis.states import TaskStates, find_states
from vlm_backbones.analysis.table_probes import probe
from vlm_backbones.errors import LogError
from vlm_backbones.model_wrappers._states import DocumentStates, StateFolder

DOCUMENTS = 160


def test_ridge_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 3))
    weights, intercepts = ridge(x, y, np.array([0.5, 20.0]))
    for index, penalty in enumerate((0.5, 20.0)):
        oracle = Ridge(alpha=penalty).fit(x, y)
        np.testing.assert_allclose(weights[index].T, oracle.coef_, atol=1e-9)
        np.testing.assert_allclose(intercepts[index], oracle.intercept_, atol=1e-9)


def test_softmax_regression_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(90, 8)), rng.integers(0, 4, (2, 90))
    x[:, :4] += np.eye(4)[labels[0]]
    used = np.stack([np.arange(90) % 3 != 0, np.ones(90, dtype=bool)])
    weights, intercepts = softmax_regression(x, labels, used, np.array([5.0, 50.0]), tolerance=1e-9)
    for index, penalty in enumerate((5.0, 50.0)):
        oracle = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000).fit(
            x[used[index]], labels[index][used[index]]
        )
        logits = x @ weights[index] + intercepts[index]
        share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(share, oracle.predict_proba(x), atol=1e-6)


def test_documents_of_one_image_share_a_fold() -> None:
    groups = np.repeat(np.arange(20), 4)
    folds = grouped_folds(groups, 5, seed=0)
    assert all(len(set(folds[groups == group])) == 1 for group in range(20))
    assert np.bincount(folds).tolist() == [16] * 5


def test_what_only_the_image_gives_away_is_not_read() -> None:
    """Each image has a direction of its own and a label at random: within an image it is easy, across images chance."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(60), 4)
    features = (np.eye(60)[groups] * 5 + rng.normal(size=(240, 60)) * 0.1).astype(np.float32)
    labels = rng.integers(0, 2, 60)[groups].astype(float)
    ((said, _),) = predict_folds(features, [Column(labels, 2)], groups, seed=0)
    assert 0.3 < (said == labels).mean() < 0.65


def test_directions_that_cannot_be_told_apart_are_not_chosen_among() -> None:
    """Words that one question has, as many as questions: which 32 of them come first is another machine's rounding."""
    kinds = np.arange(60) % 3
    features = np.column_stack([np.eye(3)[kinds], np.eye(60)]).astype(np.float32)
    rng = np.random.default_rng(5)
    value, groups = kinds + rng.normal(0, 1, 60), np.arange(60)
    found = [
        predict_folds(features[:, order], [Column(value)], groups, seed=0)[0]
        for order in (np.arange(63), np.arange(63)[::-1], rng.permutation(63))
    ]
    np.testing.assert_allclose(found[1:], [found[0]] * 2, atol=1e-9)
    assert np.corrcoef(found[0][0], kinds)[0, 1] > 0.9
    ((said, plain),) = predict_folds(features[:, 3:], [Column(value)], groups, seed=0)
    np.testing.assert_array_equal(said, plain)


def states_of(vectors: np.ndarray, folder: Path, condition: str, keys: list[str]) -> None:
    writer = StateFolder(
        folder / "states" / condition, 0, {"checkpoint": "c", "layers": [0, 2], "token_types": ["image_mean"]}
    )
    for index, (key, row) in enumerate(zip(keys, vectors, strict=True)):
        size = np.abs(row).max(-1)
        scaled = torch.tensor(row / np.where(size > 0, size, 1)[..., None]).half()
        writer.add(DocumentStates("scenes", index, key, scaled, torch.tensor(size, dtype=torch.float32)))
    writer.close()


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, Path]:
    """Layer 2 holds `count` and `colour`, layer 0 and random weights nothing; the question's words name `word`."""
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("run")
    keys = [f"{index:064x}" for index in range(DOCUMENTS)]
    count, colour, word = rng.integers(1, 6, DOCUMENTS), rng.integers(0, 3, DOCUMENTS), rng.integers(0, 2, DOCUMENTS)
    vectors = rng.normal(size=(DOCUMENTS, 2, 1, 48))
    vectors[:, 1, 0, 0] += 3 * count
    vectors[:, 1, 0, 1:4] += 4 * np.eye(3)[colour]
    vectors[0] = 0  # a document without image tokens
    states_of(vectors, folder, "clean", keys)
    states_of(rng.normal(size=(DOCUMENTS, 2, 1, 48)), folder, "random_weights", keys)
    rows = [
        {
            "run": "r", "task": "scenes", "condition": "clean", "doc_key": key, "cluster": f"i{index // 2}",
            "question": ("yes please" if word[index] else "no thanks"), "question_type": f"t{index % 4}",
            "targets": json.dumps(
                {"count": int(count[index]), "colour": f"c{colour[index]}", "word": f"w{word[index]}", "text": key}
            ),
        }
        for index, key in enumerate(keys)
    ]  # fmt: skip
    return pl.DataFrame(rows), folder


def test_planted_targets_are_read_and_their_controls_are_at_chance(planted: tuple[pl.DataFrame, Path]) -> None:
    samples, folder = planted
    states = find_states({"r": RunInfo("r", "r", 0, folder)}, ["scenes"])
    table = probe(samples, states, workers=1)
    assert sorted(set(table["target"])) == ["colour", "count", "word"]  # text differs in every document
    assert set(table["n"]) == {DOCUMENTS - 1}
    assert set(table["n_missing"]) == {1}
    at = {(row["target"], row["layer"]): row for row in table.to_dicts()}
    for target, read, chance in (("count", 0.85, 0.0), ("colour", 0.85, 1 / 3)):
        row, empty = at[target, 2], at[target, 0]
        assert row["score"] > read
        assert row["ci_low"] < row["score"] < row["ci_high"]
        for control in (row["permuted"], row["random_weights"], row["text_only"], empty["score"]):
            assert control == pytest.approx(chance, abs=0.17)
        assert row["selectivity"] > 0.3
    assert at["word", 2]["text_only"] == 1
    assert at["word", 2]["score"] == pytest.approx(0.5, abs=0.15)


def test_named_targets_alone_are_probed(planted: tuple[pl.DataFrame, Path]) -> None:
    samples, folder = planted
    states = find_states({"r": RunInfo("r", "r", 0, folder)}, ["scenes"])
    assert set(probe(samples, states, targets=["count", "nothing"], workers=1)["target"]) == {"count"}


def test_a_broken_or_foreign_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scenes-rank0-00000.safetensors"
    path.write_bytes(b"no states")
    with pytest.raises(LogError, match=r"scenes-rank0-00000\.safetensors cannot be read"):
        _ = TaskStates("r", "scenes", "clean", (path,)).layers

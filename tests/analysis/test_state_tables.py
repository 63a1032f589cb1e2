"""The tables over hidden states, on states laid out by hand: who is compared with whom, on which documents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from state_shards import write_shard

from vlm_backbones.analysis.cka import cka_matrices
from vlm_backbones.analysis.log_files import CONDITIONS, find_logs
from vlm_backbones.analysis.run_info import RunInfo
from vlm_backbones.analysis.stability_pair import PERTURBATIONS, stability_difference
from vlm_backbones.analysis.states import RANDOM_WEIGHTS, TaskStates, find_states
from vlm_backbones.analysis.table_similarity import similarity
from vlm_backbones.analysis.table_stability import flip_rate, shared_states, stability, stability_draws
from vlm_backbones.errors import LogError
from vlm_backbones.hashes import file_sha256, sealed_json
from vlm_backbones.study import Condition

LAYERS, TOKENS = (0, 2), ("last_prompt", "image_mean")
KEYS = [f"{number:064x}" for number in range(12)]
Floats = NDArray[Any]


def vectors(seed: int, documents: int = len(KEYS)) -> Floats:
    """(documents, layers, token types, hidden)."""
    shape = (documents, len(LAYERS), len(TOKENS), 5)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float16).astype(np.float32)


def write(path: Path, states: Floats, keys: list[str], **header: object) -> Path:
    return write_shard(path, states, keys, **{"layers": LAYERS, "token_types": TOKENS, **header})


def states_of(folder: Path, run: str, condition: str, states: Floats, keys: list[str] = KEYS) -> TaskStates:
    """In two shards, as of two processes."""
    half = len(keys) // 2
    for rank, part in enumerate((slice(0, half), slice(half, None))):
        write(folder / run / "states" / condition / f"t-rank{rank}-00000.safetensors", states[part], keys[part])
    paths = sorted((folder / run / "states" / condition).glob("t-*"))
    return TaskStates(run, "t", condition, tuple(paths))


def samples(answers: Mapping[str, Sequence[str | None]], run: str = "a") -> pl.DataFrame:
    """Two documents an image."""
    rows = [
        {"run": run, "task": "t", "condition": name, "doc_key": key, "cluster": f"image {number // 2}", "parsed": said}
        for name, column in answers.items()
        for number, (key, said) in enumerate(zip(KEYS, column, strict=True))
    ]
    return pl.DataFrame(rows)


def test_states_are_found_and_read_back(tmp_path: Path) -> None:
    states = vectors(0)
    states[3, 1, 1] = np.nan
    states_of(tmp_path, "a", "clean", states)
    folders = {"a": tmp_path / "a", "b": tmp_path / "b", "c": None}  # one left no states, one is of another maker
    runs = {name: RunInfo(name, name, 0, folder) for name, folder in folders.items()}
    (key, found), *others = find_states(runs, ["other", "t"]).items()
    assert (key, others) == (("a", "t", "clean"), [])
    assert (found.layers, found.token_types, found.doc_keys) == (list(LAYERS), list(TOKENS), KEYS)
    np.testing.assert_array_equal(found.vectors(2, "image_mean"), states[:, 1, 1])
    np.testing.assert_array_equal(found.vectors(0, "last_prompt"), states[:, 0, 0])


def test_shards_that_disagree_or_are_damaged_are_named(tmp_path: Path) -> None:
    one = write(tmp_path / "t-rank0.safetensors", vectors(0), KEYS)
    other = write(tmp_path / "t-rank1.safetensors", vectors(1), KEYS, layers=[0, 1])
    with pytest.raises(LogError, match=r"rank1.* has other layers, kinds of token or weights than .*rank0"):
        _ = TaskStates("a", "t", "clean", (one, other)).layers
    endless = vectors(0)
    endless[1, 0, 0] = np.inf
    broken = TaskStates("a", "t", "clean", (write(tmp_path / "t-rank2.safetensors", endless, KEYS),))
    with pytest.raises(LogError, match=r"rank2.* not finite"):
        broken.vectors(0, "last_prompt")
    save_file({"states": np.zeros(1)}, one, metadata={"layers": "[0]"})
    with pytest.raises(LogError, match="layers and token_types are missing"):
        _ = TaskStates("a", "t", "clean", (one,)).layers
    one.write_bytes(b"no file of tensors")
    with pytest.raises(LogError, match="cannot be read"):
        _ = TaskStates("a", "t", "clean", (one,)).layers


def good() -> dict[str, Floats]:
    """The tensors of two documents, two layers, two kinds of token."""
    keys = np.arange(64, dtype=np.uint8).reshape(2, 32)
    return {"states": np.ones((2, 2, 2, 5), np.float16), "scales": np.ones((2, 2, 2), np.float32), "doc_key": keys}


NAMES = {"layers": "[0, 2]", "token_types": '["a", "b"]'}


@pytest.mark.parametrize(
    ("tensors", "header", "problem"),
    [
        ({}, {"layers": "0, 2"}, "cannot be read"),
        ({}, {"layers": "[" * 100_000}, "nested too deeply"),
        ({}, {"layers": '"all"'}, "layers are 'all', expected different ints in a list"),
        ({}, {"layers": "[0, true]"}, "layers are"),
        ({}, {"layers": "[0, 0]"}, "layers are"),
        ({}, {"layers": f"[0, {10**30}]"}, "its header names layer 1000000"),
        ({}, {"layers": "[-1, 2]"}, "its header names layer -1"),
        ({}, {"layers": "[0, 1, 2]"}, r"states \[2, 2, 2, 5\].* expected \(documents, 3 layers"),
        ({}, {"token_types": '["a"]'}, "1 kinds of token"),
        ({}, {"token_types": "[1, 2]"}, "token_types are '\\[1, 2\\]', expected different strs"),
        ({}, {"token_types": '["a", "\\ud800"]'}, "token_types are"),
        ({"states": np.ones((2, 5), np.float16)}, {}, r"states \[2, 5\]"),
        ({"states": np.ones((2, 2, 2, 0), np.float16)}, {}, r"states \[2, 2, 2, 0\]"),
        ({"states": np.ones((2, 2, 2, 5), np.int16)}, {}, "expected F16 or F32 states"),
        ({"scales": np.ones((2, 2), np.float32)}, {}, r"scales \[2, 2\]"),
        ({"scales": None}, {}, "it has no scales"),
        ({"doc_key": None}, {}, "it has no doc_key"),
        ({"doc_key": np.zeros((3, 32), np.uint8)}, {}, r"doc_key \[3, 32\]"),
        ({"doc_key": np.zeros((2, 32), np.uint8)}, {}, "holds document 0+ twice"),
        ({"scales": -np.ones((2, 2, 2), np.float32)}, {}, "scales below 0"),
        ({}, {"condition": '"swap"'}, "condition 'swap', and lies where those of 't', 'clean' belong"),
        ({}, {"task": '"other"'}, "holds states of task 'other'"),
    ],
)
def test_what_is_no_shard_is_one_error(
    tmp_path: Path, tensors: dict[str, Any], header: dict[str, str], problem: str
) -> None:
    path = tmp_path / "a" / "states" / "clean" / "t-rank0-00000.safetensors"
    path.parent.mkdir(parents=True)
    runs = {"a": RunInfo("a", "a", 0, tmp_path / "a")}
    save_file(good(), path, metadata=NAMES)
    assert similarity(find_states(runs, ["t"])).height == 2 * 4
    content = {name: part for name, part in (good() | tensors).items() if part is not None}
    save_file(content, path, metadata=NAMES | header)
    with pytest.raises(LogError, match=problem) as caught:
        similarity(find_states(runs, ["t"]))
    assert str(path) in str(caught.value)
    assert "evaluate again" in str(caught.value)


def test_conditions_of_a_run_that_kept_other_layers_are_refused(tmp_path: Path) -> None:
    for condition, layers in (("clean", "[0, 2]"), ("swap", "[0, 1]")):
        path = tmp_path / "a" / "states" / condition / "t-rank0-00000.safetensors"
        path.parent.mkdir(parents=True)
        save_file(good(), path, metadata=NAMES | {"layers": layers})
    with pytest.raises(LogError, match=r"swap.* has other layers, kinds of token or sizes than .*clean"):
        find_states({"a": RunInfo("a", "a", 0, tmp_path / "a")}, ["t"])


def test_states_that_an_evaluation_sealed_are_checked_and_others_are_not(tmp_path: Path) -> None:
    """A bare lmms-eval writes no done.json, an earlier version no states in it."""
    folder = tmp_path / "a" / "states" / "clean"
    folder.mkdir(parents=True)
    shard, log = folder / "t-rank0-00000.safetensors", tmp_path / "a" / "logs" / "clean" / "samples_t.jsonl"
    save_file(good(), shard, metadata=NAMES)
    log.parent.mkdir(parents=True)
    log.write_text("{}\n")
    done, row = log.with_name("done.json"), {"samples": log.name, "sha256": file_sha256(log)}
    files = {"states/clean/t-rank0-00000.safetensors": file_sha256(shard)}
    done.write_text(sealed_json({"tasks": {"t": row | {"files": files}}}))
    find_logs([tmp_path])
    beside = shard.with_name("t-rank1-00000.safetensors")
    beside.write_bytes(shard.read_bytes())
    with pytest.raises(LogError, match=r"rank1.* is no file of the evaluation"):
        find_logs([tmp_path])
    beside.unlink()
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    with pytest.raises(LogError, match=r"rank0-00000\.safetensors is not the file that the evaluation wrote"):
        find_logs([tmp_path])
    done.write_text(done.read_text().replace('"samples"', '"sample"'))
    with pytest.raises(LogError, match=r"done\.json is no intact JSON object"):
        find_logs([tmp_path])
    shard.unlink()
    done.write_text(sealed_json({"tasks": {"t": row | {"files": files}}}))
    with pytest.raises(LogError, match=r"rank0-00000\.safetensors' is gone"):
        find_logs([tmp_path])
    for content in (sealed_json({"tasks": {"t": row}}), None):
        done.unlink()
        if content:
            done.write_text(content)
        find_logs([tmp_path])


def test_similarity_compares_each_layer_with_each_on_the_common_documents(tmp_path: Path) -> None:
    """Run b misses a document and answers in another order; one of a has no picture."""
    first, second = vectors(1), vectors(2)
    first[4, :, 1] = np.nan
    order = [7, 2, 0, 1, 3, 4, 5, 6, 8, 9, 10]  # without 11
    table = similarity(
        {
            ("a", "t", "clean"): states_of(tmp_path, "a", "clean", first),
            ("a", "t", "swap"): states_of(tmp_path, "a", "swap", vectors(3)),
            ("b", "t", "clean"): states_of(tmp_path, "b", "clean", second[order], [KEYS[i] for i in order]),
        }
    )
    # per kind of token: (a, a), (a, b), (b, b), two layers by two
    assert table.height == 2 * 3 * 4
    assert table["task"].unique().to_list() == ["t"]
    for token, missing in (("last_prompt", [11]), ("image_mean", [4, 11])):
        kept = [i for i in range(12) if i not in missing]
        part = table.filter(token_type=token)
        assert part.select("n", "n_missing").unique().row(0) == (len(kept), len(missing))
        k = TOKENS.index(token)
        representations = [states[kept, layer, k] for states in (first, second) for layer in range(2)]
        biased, debiased = cka_matrices(representations)
        for row in part.iter_rows(named=True):
            i, j = (2 * "ab".index(row[f"run_{x}"]) + LAYERS.index(row[f"layer_{x}"]) for x in "ab")
            assert (row["cka"], row["cka_debiased"]) == (pytest.approx(biased[i, j]), pytest.approx(debiased[i, j]))
    whole = [name for name, kind in table.schema.items() if kind == pl.Int64]
    assert whole == ["layer_a", "layer_b", "n", "n_missing"]
    pairs = table.select("run_a", "layer_a", "run_b", "layer_b").unique()
    assert pairs.height == 12
    assert set(pairs.select("run_a", "run_b").iter_rows()) == {("a", "a"), ("a", "b"), ("b", "b")}


def test_without_a_common_document_nothing_is_similar(tmp_path: Path) -> None:
    one = {("a", "t", "clean"): states_of(tmp_path, "a", "clean", vectors(1)[:6], KEYS[:6])}
    other = {("b", "t", "clean"): states_of(tmp_path, "b", "clean", vectors(2)[:6], KEYS[6:])}
    assert similarity(one | other).height == 0
    assert similarity({("a", "t", "swap"): one["a", "t", "clean"]}).height == 0


def test_stability_compares_each_condition_with_the_clean_states(tmp_path: Path) -> None:
    clean, moved = vectors(1), vectors(1) + vectors(2) / 2
    moved = moved.astype(np.float16).astype(np.float32)
    moved[3, 1, 0] = np.nan
    answers = {"clean": [*"xxxxxxxxxxx", None], "jpeg40": [*"xxxxxxxxyy", None, None]}
    states = {
        ("a", "t", "clean"): states_of(tmp_path, "a", "clean", clean),
        ("a", "t", "jpeg40"): states_of(tmp_path, "a", "jpeg40", moved),
        ("a", "t", RANDOM_WEIGHTS): states_of(tmp_path, "a", RANDOM_WEIGHTS, vectors(3)),
        ("b", "t", "jpeg40"): states_of(tmp_path, "b", "jpeg40", moved),  # nothing clean to compare it with
    }
    table = stability(samples(answers), states)
    assert table.select("run", "task", "condition").unique().rows() == [("a", "t", "jpeg40")]
    assert table.height == 4
    assert table["answer_flip_rate"].unique().to_list() == [3 / 12]  # two say y, one says nothing
    for row in table.iter_rows(named=True):
        i, k = LAYERS.index(row["layer"]), TOKENS.index(row["token_type"])
        kept = [d for d in range(12) if not np.isnan(moved[d, i, k, 0])]
        assert (row["n"], row["n_missing"]) == (len(kept), 12 - len(kept))
        expected, _ = stability_draws(clean[kept, i, k], moved[kept, i, k])
        assert row["stability"] == pytest.approx(expected)
        assert row["ci_low"] < expected < row["ci_high"]
    one = (write(tmp_path / "one.safetensors", clean[:1], KEYS[:1]),)
    few = {(run, task, name): TaskStates(run, task, name, one) for run, task, name in list(states)[:2]}
    assert stability(samples(answers), few).height == 0  # one document has no other


def test_shared_states_are_in_the_order_of_their_keys(tmp_path: Path) -> None:
    clean, moved = vectors(1), vectors(2)
    moved[5, 0, 0] = np.nan
    back = list(range(11, 1, -1))  # the other way round, without the first two
    before, after, keys = shared_states(
        states_of(tmp_path, "a", "clean", clean),
        states_of(tmp_path, "a", "swap", moved[back], [KEYS[i] for i in back]),
        0,
        "last_prompt",
    )
    kept = [2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert keys == [KEYS[i] for i in kept]
    np.testing.assert_array_equal(before, clean[kept, 0, 0])
    np.testing.assert_array_equal(after, moved[kept, 0, 0])


def test_the_flip_rate_is_of_the_documents_asked_both_ways() -> None:
    answers = {"clean": ["x"] * 12, "swap": ["y"] * 3 + ["x"] * 9}
    frame = samples(answers)
    assert flip_rate(frame, "a", "t", "swap", KEYS[:4]) == 3 / 4
    assert flip_rate(frame, "a", "t", "swap", KEYS[3:]) == 0
    assert math.isnan(flip_rate(frame, "a", "t", "noise05", KEYS))
    assert math.isnan(flip_rate(frame, "b", "t", "swap", KEYS))


def test_the_perturbations_are_all_conditions_that_keep_the_right_answer() -> None:
    assert set(PERTURBATIONS) | {"clean", "swap"} == set(CONDITIONS) == set(get_args(Condition))


def difference(folder: Path, older: Floats, newer: Floats, conditions: tuple[str, ...] = PERTURBATIONS) -> object:
    states = {}
    for run, noise in (("old", older), ("new", newer)):
        states[run, "t", "clean"] = states_of(folder, run, "clean", vectors(1))
        for number, name in enumerate(conditions):
            states[run, "t", name] = states_of(folder, run, name, vectors(1) + (number + 1) * noise)
    frame = samples({"clean": ["x"] * 12}, "old")
    return stability_difference(frame, states, "t", ["old"], ["new"])


def test_the_newer_stability_minus_the_older_over_conditions_and_layers(tmp_path: Path) -> None:
    older, newer = vectors(2) / 2, vectors(2) / 4
    found = difference(tmp_path, older, newer)
    assert isinstance(found, tuple)
    value, draws, documents, left_out, conditions = found
    assert (documents, left_out, conditions) == (12, 0, list(PERTURBATIONS))
    clean = vectors(1)[:, 1, 0]  # layer 0 is the embeddings and is not counted
    rounded = [
        [(vectors(1) + n * noise)[:, 1, 0].astype(np.float16).astype(np.float32) for n in (1, 2, 3, 4)]
        for noise in (older, newer)
    ]
    old, new = ([stability_draws(clean, moved)[0] for moved in of_run] for of_run in rounded)
    assert value == pytest.approx(np.mean(new) - np.mean(old), abs=1e-3)
    assert value > 0.1
    assert draws.shape == (1000,)
    assert np.quantile(draws, 0.025) < value < np.quantile(draws, 0.975)
    back = difference(tmp_path, newer, older)
    assert isinstance(back, tuple)
    assert back[0] == pytest.approx(-value)


def test_a_document_that_one_run_lost_is_compared_nowhere(tmp_path: Path) -> None:
    states = {}
    for run in ("old", "new"):
        for name in ("clean", "noise05"):
            keys = KEYS[1:] if (run, name) == ("old", "clean") else KEYS
            kept = vectors(3 if name == "clean" else 4)[-len(keys) :]
            states[run, "t", name] = states_of(tmp_path, run, name, kept, keys)
    found = stability_difference(samples({"clean": ["x"] * 12}, "old"), states, "t", ["old"], ["new"])
    assert found is not None
    value, _, documents, left_out, _ = found
    assert (value, documents, left_out) == (0.0, 11, 1)


def test_conditions_that_a_run_lacks_are_not_compared(tmp_path: Path) -> None:
    found = difference(tmp_path, vectors(2), vectors(3), ("shift4", "swap"))
    assert isinstance(found, tuple)
    assert found[4] == ["shift4"]
    assert difference(tmp_path, vectors(2), vectors(3), ("swap",)) is None

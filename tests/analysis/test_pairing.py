"""Questions of two runs meet by content, and are never guessed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_backbones.analysis._question_text import shared_head, shared_tail
from vlm_backbones.analysis.pairing import Paired, pair_each, pair_runs
from vlm_backbones.analysis.samples import read_samples
from vlm_backbones.errors import LogError


def rows(make: SimpleNamespace, scores: list[float], prompt: str = "{}") -> list[dict[str, object]]:
    return [make.row(i, "yes", "yes", s, input=prompt.format(f"Is {i} even")) for i, s in enumerate(scores)]


def met(paired: Paired) -> list[int]:
    """Rows of the first run that meet a row of the second."""
    return sorted(paired.rows[0][(paired.rows >= 0).all(axis=0)].tolist())


def test_prompts_worded_differently_pair_by_what_remains(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "a", rows(make, [1, 0, 1], "USER: {}?\nASSISTANT:"))
    make.log(tmp_path / "b", rows(make, [0, 0, 1], "{}? Answer briefly."))
    paired = pair_runs(read_samples([tmp_path]), ["a", "b"])
    assert paired.score.tolist() == [[1, 0, 1], [0, 0, 1]]


def test_order_of_rows_does_not_matter(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "a", rows(make, [1, 0, 1]))
    make.log(tmp_path / "b", rows(make, [0, 0, 1])[::-1])
    paired = pair_runs(read_samples([tmp_path]), ["a", "b"])
    assert paired.score.tolist() == [[1, 0, 1], [0, 0, 1]]


def test_a_limited_run_leaves_missing_questions(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "a", rows(make, [1, 0, 1, 1]))
    make.log(tmp_path / "b", rows(make, [0, 0]))
    paired = pair_runs(read_samples([tmp_path]), ["a", "b"])
    assert np.isnan(paired.score[1]).sum() == 2


def test_other_targets_for_one_document_are_refused(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "a", rows(make, [1, 0]))
    make.log(tmp_path / "b", [make.row(0, "no", "no", 1.0, input="Is 0 even")])
    with pytest.raises(LogError, match="doc_id 0 has different targets"):
        pair_runs(read_samples([tmp_path]), ["a", "b"])


def test_other_questions_under_the_same_numbers_do_not_pair(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "a", rows(make, [1, 0, 1]))
    other = [make.row(i, "yes", "yes", 1.0, input=f"Was {9 - i} odd") for i in range(3)]
    make.log(tmp_path / "b", other)
    assert met(pair_runs(read_samples([tmp_path]), ["a", "b"])) == []


def test_doc_keys_pair_whatever_the_numbers_are(study_dir: Path) -> None:
    frame = read_samples([study_dir]).filter(task="seismic_coords", condition="clean")
    paired = pair_runs(frame, ["pocket-llama-1", "pocket-llama-3"])
    assert paired.rows.shape == (2, 120)
    assert (paired.rows >= 0).all()
    assert paired.singletons


def test_other_targets_under_one_key_are_refused_whatever_the_numbers_are(study_dir: Path) -> None:
    """As of test data that were edited between two evaluations; two documents may be the same but for their target."""
    runs = ["pocket-llama-1", "pocket-llama-3"]
    frame = read_samples([study_dir]).filter(pl.col("run").is_in(runs), task="seismic_coords", condition="clean")
    number = pl.col("doc_id").cast(pl.Int64)
    is_second = pl.col("run") == runs[1]
    moved = frame.with_columns(doc_id=pl.when(is_second).then(1000 - number).otherwise(number).cast(pl.String))
    pair_runs(moved, runs)
    edited = moved.with_columns(
        target=pl.when(is_second & (number == 993)).then(pl.lit("edited")).otherwise(pl.col("target").cast(pl.String))
    )
    with pytest.raises(LogError, match=r"doc_id 7 has different targets in different runs \(.*'edited'\); 1 such doc"):
        pair_runs(edited, runs)

    twins = frame.with_columns(doc_key=pl.when(number < 2).then(pl.lit("twins")).otherwise(pl.col("doc_key")))
    assert pair_runs(twins, runs).rows.shape == (2, 120)


def test_pairs_of_many_runs_are_those_of_each_two(tmp_path: Path, make: SimpleNamespace) -> None:
    """Whether a third run shares their numbers and words, or has another prompt and questions of its own."""
    make.log(tmp_path / "a", rows(make, [1, 0, 1]))
    make.log(tmp_path / "b", rows(make, [1, 1, 0]))
    for prompt in ("{}", "Q: {}"):
        make.log(tmp_path / "c", rows(make, [0, 1, 1, 1], prompt))
        frame = read_samples([tmp_path])
        of = pair_each(frame, pair_runs(frame, ["a", "b", "c"]))
        for two in (["a", "b"], ["b", "c"]):
            expected = pair_runs(frame, two)
            assert of(two).rows.tolist() == expected.rows.tolist()
            np.testing.assert_array_equal(of(two).score, expected.score)


@settings(deadline=None)
@given(st.lists(st.text("ab?", max_size=5), min_size=2, max_size=6))
def test_shared_head_and_tail_are_the_longest(texts: list[str]) -> None:
    lengths = range(min(map(len, texts)) + 1)
    turned = [text[::-1] for text in texts]
    head, tail = shared_head(pl.Series(texts)), shared_tail(pl.Series(texts))
    assert all(text.startswith(head) and text.endswith(tail) for text in texts)
    assert len(head) == max(k for k in lengths if len({text[:k] for text in texts}) == 1)
    assert len(tail) == max(k for k in lengths if len({text[:k] for text in turned}) == 1)


def test_a_single_shared_question_pairs_by_its_number(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "a", rows(make, [1, 0, 1]))
    make.log(tmp_path / "b", rows(make, [1], "Q: {}"))
    paired = pair_runs(read_samples([tmp_path]), ["a", "b"])
    assert (paired.rows >= 0).all(axis=0).tolist() == [True, False, False]


def test_identical_documents_pair_one_by_one(study_dir: Path) -> None:
    """Two documents with one doc_key: the k-th of a run meets the k-th of the other."""
    frame = read_samples([study_dir]).filter(task="vqa_scene", condition="clean")
    frame = frame.with_columns(doc_key=pl.lit("same"))
    paired = pair_runs(frame, ["pocket-llama-1", "pocket-llama-3"])
    documents = frame["doc_id"].to_numpy()[paired.rows]
    assert documents[0].tolist() == documents[1].tolist() == [str(i) for i in range(120)]


ODD = {"question": "Is 7 even!", "start": "Say: Is 7 even", "end": "Is 7 even, please"}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("prompt", ["{}", "USER: {}?\nASSISTANT:"])
def test_one_odd_row_stays_alone_and_the_others_meet(
    tmp_path: Path, make: SimpleNamespace, odd: str, prompt: str
) -> None:
    """One question of the second run differs: it is missing on both sides, the 59 others pair."""
    make.log(tmp_path / "a", rows(make, [1.0] * 60))
    other = rows(make, [0.0] * 60, prompt)
    other[7]["input"] = ODD[odd]
    make.log(tmp_path / "b", other)
    paired = pair_runs(read_samples([tmp_path]), ["a", "b"])
    assert paired.rows.shape == (2, 61)
    assert met(paired) == [place for place in range(60) if place != 7]


def test_a_question_without_the_usual_words_is_not_the_one_with_them(tmp_path: Path, make: SimpleNamespace) -> None:
    """Most questions begin alike, so that the common words go: what a question lacks of them still tells it apart."""
    usual = [f"Is there a thing {i}" for i in range(60)]
    for run, prompt, last in (("a", "{}", "thing 60"), ("b", "USER: {}", "Is there a thing 60")):
        asked = [*usual, last, "What colour?"]
        make.log(tmp_path / run, [make.row(i, "x", "x", 1.0, input=prompt.format(q)) for i, q in enumerate(asked)])
    assert met(pair_runs(read_samples([tmp_path]), ["a", "b"])) == [*range(60), 61]


def test_a_run_of_other_questions_does_not_part_the_others(tmp_path: Path, make: SimpleNamespace) -> None:
    for run, prompt in (("a", "{}"), ("b", "Q: {}"), ("c", "Is it {} or not")):
        make.log(tmp_path / run, rows(make, [1.0] * 5, prompt))
    paired = pair_runs(read_samples([tmp_path]).with_columns(correct=None), ["a", "b", "c"])
    assert met(paired) == [0, 1, 2, 3, 4]
    assert np.isnan(paired.correct).all()  # no threshold, so nothing is right or wrong

"""Numbers stand for texts and for pairs as a table of all pairs would number them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_backbones.analysis import _codes
from vlm_backbones.analysis._codes import numbered, text_codes
from vlm_backbones.analysis._sample_frame import split_by, where


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30), st.integers(1, 40))
def test_pairs_are_numbered_in_the_order_of_their_first_rows(pairs: list[tuple[int, int]], rows_at_once: int) -> None:
    key, part = np.array(pairs, dtype=np.uint32).reshape(-1, 2).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_codes, "_ROWS_AT_ONCE", rows_at_once)
        number, first = numbered(key, part)
    distinct = list(dict.fromkeys(pairs))
    assert number.tolist() == [distinct.index(pair) for pair in pairs]
    assert first.tolist() == [pairs.index(pair) for pair in distinct]


@pytest.mark.parametrize("kind", [pl.String, pl.Categorical()])
def test_equal_texts_have_one_code_and_null_that_of_the_empty_one(kind: pl.DataType) -> None:
    a, b, again, null, empty = text_codes(pl.Series(["a", "b", "a", None, ""], dtype=kind)).tolist()
    assert (a, null) == (again, empty)
    assert len({a, b, null}) == 3


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy")), max_size=12), st.sampled_from([0, 1000]))
def test_rows_are_split_by_value_in_order_of_appearance(pairs: list[tuple[str, str]], most_pieces: int) -> None:
    """Whether they are cut out piece by piece or, of too many pieces, copied."""
    frame = pl.DataFrame(pairs, schema={"run": pl.String, "task": pl.String}, orient="row").with_row_index("row")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlm_backbones.analysis._sample_frame._MOST_PIECES", most_pieces)
        found = {key: part["row"].to_list() for key, part in split_by(frame, "run", "task")}
        of_a = where(frame, run="a")["row"].to_list()
    assert list(found) == list(dict.fromkeys(pairs))
    assert found == {pair: [row for row, own in enumerate(pairs) if own == pair] for pair in pairs}
    assert of_a == [row for row, (run, _) in enumerate(pairs) if run == "a"]


def test_a_file_of_a_large_log_is_cut_out_without_a_copy() -> None:
    parts = [pl.DataFrame({"run": [run] * 1000, "score": np.arange(1000.0)}) for run in "abc"]
    frame = pl.concat(parts)
    own = where(frame, run="b")["score"].to_numpy()
    assert np.shares_memory(own, parts[1]["score"].to_numpy())

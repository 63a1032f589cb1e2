"""Options of samples as matrices, against a loop over the samples."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_backbones.analysis.options import fold, option_logits, softmax
from vlm_backbones.analysis.samples import SAMPLE_SCHEMA, read_samples
from vlm_backbones.analysis.table_agreement import agreement

names = st.sampled_from(["A", "b", "Red.", " blue", "İ", "none"])
listed = st.none() | st.lists(
    st.fixed_dictionaries({"option": names, "logprob": st.none() | st.floats(-9, 0)}),
    max_size=4,
    unique_by=lambda item: item["option"],
)


@settings(deadline=None)
@given(st.lists(st.tuples(listed, names, st.none() | names), max_size=6), st.randoms())
def test_log_probabilities_stand_in_the_order_of_the_folded_options(samples: list[Any], random: Random) -> None:
    kinds = {name: SAMPLE_SCHEMA[name] for name in ("option_logprobs", "target", "parsed")}
    part = pl.DataFrame(samples, schema=kinds, orient="row")
    rows = random.sample(range(len(samples)), k=len(samples) // 2)
    found = option_logits(part, rows)
    for place, row in enumerate(rows):
        options, target, parsed = samples[row]
        given_options = [
            (fold(o["option"]), -math.inf if o["logprob"] is None else o["logprob"]) for o in options or []
        ]
        known = sorted(given_options) if any(math.isfinite(value) for _, value in given_options) else []
        width = found.logits.shape[1] - len(known)
        assert found.logits[place].tolist() == [value for _, value in known] + [-math.inf] * width
        assert found.right[place] == next((i for i, (name, _) in enumerate(known) if name == fold(target)), -1)
        said = next((i for i, (name, _) in enumerate(known) if parsed is not None and name == fold(parsed)), -1)
        assert found.answered[place] == said
        assert found.count[place] == len(known)


def test_softmax_of_no_options_is_zero() -> None:
    p = softmax(np.array([[0.0, 0.0], [-np.inf, -np.inf]]), np.array([2, 0]))
    assert p.tolist() == [[0.5, 0.5], [0.0, 0.0]]


def test_an_option_of_probability_zero_keeps_its_place_in_capa(tmp_path: Path, make: SimpleNamespace) -> None:
    """By hand: agreement .5 * .6 + .2 * .4 = .38; by chance .5 * .6 + .5 * .4 / 2 = .4; (.38 - .4) / .6."""
    shares = {"one": [0.5, 0.3, 0.2], "two": [0.6, 0.0, 0.4]}
    for run, values in shares.items():
        pairs = [[str(math.log(value)) if value else "-inf", "False"] for value in values]
        make.log(tmp_path / run, [make.row(0, "0", "", None, acc=1.0) | {"filtered_resps": pairs}])
    row = agreement(read_samples([tmp_path]), bootstrap=100).row(0, named=True)
    assert row["capa"] == pytest.approx(-1 / 30)


def test_capa_needs_the_same_options(tmp_path: Path, make: SimpleNamespace) -> None:
    for run, count in (("one", 3), ("two", 4)):
        pairs = [["-1.0", "False"]] * count
        make.log(tmp_path / run, [make.row(0, "0", "", None, acc=1.0) | {"filtered_resps": pairs}])
    assert math.isnan(agreement(read_samples([tmp_path]), bootstrap=100)["capa"].item())

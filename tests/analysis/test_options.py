"""Options of samples as matrices, against a loop over the samples."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_backbones.analysis.options import fold, option_logits, softmax
from vlm_backbones.analysis.samples import SAMPLE_SCHEMA

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
        known = sorted((fold(o["option"]), o["logprob"]) for o in options or [] if o["logprob"] is not None)
        width = found.logits.shape[1] - len(known)
        assert found.logits[place].tolist() == [value for _, value in known] + [-math.inf] * width
        assert found.right[place] == next((i for i, (name, _) in enumerate(known) if name == fold(target)), -1)
        said = next((i for i, (name, _) in enumerate(known) if parsed is not None and name == fold(parsed)), -1)
        assert found.answered[place] == said
        assert found.count[place] == len(known)


def test_softmax_of_no_options_is_zero() -> None:
    p = softmax(np.array([[0.0, 0.0], [-np.inf, -np.inf]]), np.array([2, 0]))
    assert p.tolist() == [[0.5, 0.5], [0.0, 0.0]]

"""Rows of the table `intervals`: what stands in another table without columns for its interval."""

from __future__ import annotations

__all__ = ["ALL_TYPES", "SAMPLE_DRAWS", "IntervalRow", "interval_rows"]

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis.bootstrap import interval

Floats = NDArray[np.float64]
IntervalRow = dict[str, Any]

ALL_TYPES = "all"
SAMPLE_DRAWS = 1000
"""Most draws of a measure that needs the samples themselves."""


def interval_rows(
    place: Mapping[str, Any], values: Mapping[str, float], drawn: Mapping[str, Floats], counts: Mapping[str, int]
) -> Iterator[IntervalRow]:
    """One row a measure that is defined.

    Parameters
    ----------
    place : table, task, runs, and the question type where it is one.
    values, drawn : measure -> its value, and the value of each bootstrap draw.
    counts : n and n_missing.
    """
    for measure, value in values.items():
        if np.isfinite(value):
            low, high = interval(drawn[measure], value=float(value))
            row = {"question_type": ALL_TYPES, **place, "measure": measure, "value": float(value)}
            yield row | {"ci_low": low, "ci_high": high, **counts}

"""Single values of a logged sample, and columns of them: numbers, text, keys that step into mappings."""

from __future__ import annotations

__all__ = [
    "Record",
    "Values",
    "float_series",
    "judgement",
    "kinds",
    "lookup",
    "metric_number",
    "metric_numbers",
    "number",
    "text",
    "text_series",
]

import json
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Record = Mapping[str, Any]
Values = Sequence[Any]

_VERDICTS = ("is_correct", "correct", "true_false")
_YES_NO: Mapping[Hashable, float] = {True: 1.0, False: 0.0, "True": 1.0, "False": 0.0}
# each part takes what it can and gives nothing back: a long text is read once
_NUMERIC = re.compile(r"\s*+(?:[-+]?(?:\d++(?:\.\d++)?|\.\d++)(?:[eE][-+]?\d++)?|nan)\s*+")


def kinds(values: Values) -> set[type]:
    """The types that occur in a column: one type means that it can be taken over as it is."""
    return set(map(type, values))


def number(value: Any, finite: bool = True) -> float | None:
    """A finite float from a number, a bool or the string that lmms-eval makes of np.float32; else None."""
    if isinstance(value, (bool, int, float, str)):
        try:
            found = float(value)
        except (ValueError, OverflowError):
            return None
        return found if math.isfinite(found) or not finite else None
    return None


def judgement(value: Mapping[str, Any]) -> float | None:
    """The score that a task keeps in a mapping, or its yes or no to the answer.

    Examples
    --------
    >>> judgement({"score": 0.3}), judgement({"is_correct": True}), judgement({"correct": "B"})
    (0.3, 1.0, None)
    """
    if "score" in value:
        return number(value["score"])
    return next(
        (_YES_NO[said] for said in map(value.get, _VERDICTS) if isinstance(said, Hashable) and said in _YES_NO), None
    )


def metric_number(value: Any) -> float | None:
    """NaN stays NaN: the metric exists and has no value for this sample (as error_km of an unparsed answer)."""
    if isinstance(value, dict):
        return judgement(value)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return number(value, finite=False) if not isinstance(value, str) or _NUMERIC.fullmatch(value) else None


def metric_numbers(values: Values) -> list[float | None]:
    """`metric_number` of a column."""
    return list(values) if kinds(values) == {float} else list(map(metric_number, values))


def float_series(values: Sequence[float | None] | NDArray[np.float64]) -> pl.Series:
    """A column of numbers; NaN and None become null."""
    return pl.Series(np.asarray(values, dtype=float), nan_to_null=True)


def text(value: Any) -> str | None:
    """Text that any UTF-8 writer takes: lone surrogates become visible escapes."""
    if value is None:
        return None
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return written.encode("utf-8", "backslashreplace").decode("utf-8")


def text_series(values: Values) -> pl.Series:
    """`text` of a column."""
    try:
        return pl.Series(values, dtype=pl.String)
    except (TypeError, OverflowError, UnicodeEncodeError):  # something that is no text, or a lone surrogate
        written = str if kinds(values) == {int} else text
        return pl.Series(list(map(written, values)), dtype=pl.String)


def lookup(record: Record, key: str, absent: Any = None) -> Any:
    """Return record[key], where a dot steps into a mapping or, before a number, into a list."""
    value: Any = record
    if key in record:
        return record[key]
    for part in key.split("."):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            return absent
    return value

"""Letters for the options of a log that holds their places alone."""

from __future__ import annotations

__all__ = ["lettered"]

from string import ascii_uppercase

import polars as pl


def lettered(part: pl.DataFrame) -> pl.DataFrame:
    """Answers and targets of a task as "B (option 2 of 6)" where the log says "1"; other logs as they are.

    lmms-eval logs a multiple-choice task so: the options' texts are not in its samples. Options that a model was asked
    to write, numbers among them, stay as they are: such answers have a probability of their own.
    """
    options, own = part["option_logprobs"], part["sequence_confidence"]
    if not part.height or options.null_count() or own.count():
        return part
    counts = options.list.len()
    places = {name: part[name].cast(pl.String).cast(pl.Int64, strict=False) for name in ("target", "answer")}
    if any((place.is_null() | (place < 0) | (place >= counts)).any() for place in places.values()):
        return part
    names = part.select(pl.col("option_logprobs").list.eval(pl.element().struct.field("option").cast(pl.String)))
    if any(list(one) != list(map(str, range(len(one)))) for one in set(map(tuple, names.to_series().to_list()))):
        return part
    return part.with_columns(pl.Series(name, list(map(_words, place, counts))) for name, place in places.items())


def _words(place: int, count: int) -> str:
    letter = ascii_uppercase[place] if count <= len(ascii_uppercase) else ""
    return f"{letter} (option {place + 1} of {count})".lstrip()

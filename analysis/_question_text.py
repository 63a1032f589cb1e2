"""What is particular to each question of a run, when the prompt that the run puts around all of them is taken away."""

from __future__ import annotations

__all__ = ["particular_texts", "shared_head", "shared_tail"]

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis._codes import Codes, Hashes, numbered, text_codes
from vlm_backbones.analysis._sample_frame import in_slices

# How many of a run's questions must have the prompt: all, else all but a few odd rows.
_SHARES = (1.0, 0.98, 0.9)
_LOOKED_AT = 1000


def particular_texts(documents: Codes, questions: pl.Series, of_runs: Sequence[slice]) -> Codes | Hashes:
    """Return a number for each row: equal where two runs asked the same about one document.

    Equal questions have equal numbers. Of those that differ, what a run's questions have in common is taken away; a
    question that all runs have alone is told by its document, as nothing says what its prompt is.

    Parameters
    ----------
    documents : (rows,) `text_codes` of the documents.
    of_runs : the rows of each run.
    """
    asked = text_codes(questions)
    last_asked = np.empty(int(documents.max(initial=0)) + 1, dtype=np.uint32)
    last_asked[documents] = asked
    if (last_asked[documents] == asked).all():
        return asked
    everywhere = (np.bincount(documents) == len(of_runs))[documents]
    if everywhere.sum() < 2 * len(of_runs):
        return np.zeros_like(asked)
    best: Codes | Hashes = asked
    most = -1
    for share in _SHARES:
        texts = _without_prompts(questions, asked, everywhere, of_runs, share)
        if _count_met(documents, texts) == texts.size:
            return texts
        place, first = numbered(documents, asked)
        texts = texts[first[place]]  # equal questions as the first of them
        met = _count_met(documents, texts)
        if met > most:
            best, most = texts, met
    return best


def _count_met(documents: Codes, texts: Hashes) -> int:
    """How many rows another run's row agrees with."""
    met = np.bincount(numbered(documents, texts)[0])
    return int(met[met > 1].sum())


def _without_prompts(
    questions: pl.Series, asked: Codes, everywhere: NDArray[np.bool_], of_runs: Sequence[slice], share: float
) -> Hashes:
    """Each question without its run's prompt; `everywhere` marks the questions of all runs, which show what that is."""
    hashes = np.empty(asked.size, dtype=np.uint64)
    known: dict[tuple[bytes, bytes], Hashes] = {}  # runs of one prompt log the same questions
    for rows in of_runs:
        key = asked[rows].tobytes(), everywhere[rows].tobytes()
        if key not in known:
            known[key] = _without_prompt(questions[rows].cast(pl.String), pl.Series(everywhere[rows]), share)
        hashes[rows] = known[key]
    return hashes


def _without_prompt(text: pl.Series, everywhere: pl.Series, share: float) -> Hashes:
    """The questions of one run; of a text the hash, since a million of them would have to be kept: 64 bits tell those
    about one document apart."""
    head = shared_head(text.filter(everywhere), share)
    kept = pl.Series("kept", _overlaps(text, head))
    # the whole questions are let go: there may be millions
    text = pl.DataFrame([text.alias("text"), kept]).select(pl.col("text").str.slice("kept")).to_series()
    tail = shared_tail(text.filter(everywhere), share)
    ends = pl.Series("ends", _overlaps(text, tail, at_end=True))
    middle = pl.col("text").str.slice(0, pl.col("text").str.len_chars().cast(pl.Int64) - pl.col("ends"))
    # What a question lacks of the prompt belongs to it: else "dog?" would be "Is there a dog?" without its head.
    lacks = len(head) - pl.col("kept"), len(tail) - pl.col("ends")
    whole = pl.format("{} {} {}", *lacks, middle.str.strip_chars()).hash()
    return in_slices(pl.DataFrame([text, kept, ends]), lambda part: part.select(whole)).to_series().to_numpy()


def _overlaps(texts: pl.Series, common: str, *, at_end: bool = False) -> np.ndarray:
    """How many characters of `common` each text starts (or ends) with: (texts,)."""
    whole = (texts.str.ends_with(common) if at_end else texts.str.starts_with(common)).to_numpy()
    out = np.full(len(texts), len(common), dtype=np.int64)
    odd = np.flatnonzero(~whole)
    turned = common[::-1]
    for place, text in zip(odd.tolist(), texts.gather(odd), strict=True):
        out[place] = _alike(text[::-1], turned) if at_end else _alike(text, common)
    return out


def _alike(one: str, two: str) -> int:
    """How many first characters two texts share."""
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def shared_head(texts: pl.Series, share: float = 1.0) -> str:
    """Return the longest text that at least this share of the texts (more than half) starts with."""
    ordered = sorted(_some(texts))
    return _longest(texts, ordered[len(ordered) // 2] if ordered else "", share, at_end=False)


def shared_tail(texts: pl.Series, share: float = 1.0) -> str:
    """Return the longest text that at least this share of the texts (more than half) ends with."""
    ordered = sorted(text[::-1] for text in _some(texts))
    return _longest(texts, ordered[len(ordered) // 2][::-1] if ordered else "", share, at_end=True)


def _some(texts: pl.Series) -> list[str]:
    """Up to a thousand texts, evenly spaced; in order, their middle one begins as most texts do."""
    return texts.gather_every(max(1, len(texts) // _LOOKED_AT)).to_list()


def _longest(texts: pl.Series, typical: str, share: float, *, at_end: bool) -> str:
    """By halving: a beginning is shared where every longer one is."""
    least = int(np.ceil(share * len(texts) - 1e-9))
    shared, beyond = 0, len(typical) + 1
    while beyond - shared > 1:
        middle = (shared + beyond) // 2
        has = texts.str.ends_with(typical[-middle:]) if at_end else texts.str.starts_with(typical[:middle])
        shared, beyond = (middle, beyond) if has.sum() >= least else (shared, middle)
    return typical[len(typical) - shared :] if at_end else typical[:shared]

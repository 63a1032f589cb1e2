"""What is particular to each question of a run, when the prompt that the run puts around all of them is taken away."""

from __future__ import annotations

__all__ = ["particular_texts", "shared_head", "shared_tail"]

from collections.abc import Sequence

import numpy as np
import polars as pl

# How many of a run's questions must have the prompt: all, else all but a few odd rows.
_SHARES = (1.0, 0.98, 0.9)
_LOOKED_AT = 1000


def particular_texts(frame: pl.DataFrame, runs: Sequence[str]) -> pl.Series:
    """Return a text for each row (run, doc_id, question): equal where two runs asked the same under one doc_id.

    Equal questions give equal texts. Of those that differ, what a run's questions have in common is taken away; a
    question that all runs have alone is told by its doc_id, as nothing says what its prompt is.
    """
    frame = frame.select("run", "doc_id", pl.col("question").cast(pl.String))
    if frame.select("doc_id", "question").unique().height == frame["doc_id"].n_unique():
        return frame["question"].alias("particular")
    seen = frame.group_by("doc_id").len().filter(pl.col("len") == len(runs))
    everywhere = frame["doc_id"].is_in(seen["doc_id"].implode())
    if everywhere.sum() < 2 * len(runs):
        return pl.repeat("", frame.height, eager=True).alias("particular")
    best, most = frame["question"], -1
    for share in _SHARES:
        texts = _without_prompts(frame, everywhere, share)
        if _count_met(frame, texts) == frame.height:
            return texts
        texts = _as_first_logged(frame, texts)
        met = _count_met(frame, texts)
        if met > most:
            best, most = texts, met
    return best


def _count_met(frame: pl.DataFrame, texts: pl.Series) -> int:
    """How many rows another run's row agrees with."""
    met = frame.select("doc_id", texts.alias("particular")).group_by("doc_id", "particular").len()
    return int(met["len"].filter(met["len"] > 1).sum())


def _as_first_logged(frame: pl.DataFrame, texts: pl.Series) -> pl.Series:
    """Give rows with one doc_id and one question the text of the first of them."""
    shared = frame.select("doc_id", "question", texts.alias("particular"))
    return shared.select(pl.col("particular").first().over("doc_id", "question")).to_series()


def _without_prompts(frame: pl.DataFrame, everywhere: pl.Series, share: float) -> pl.Series:
    """Each question without its run's prompt; `everywhere` marks the questions of all runs, which show what that is."""
    parts = []
    for rows in frame.with_row_index("row").group_by("run", maintain_order=True).agg("row")["row"]:
        text, known = frame["question"][rows], everywhere[rows]
        head = shared_head(text.filter(known), share)
        kept = _overlaps(text, head)
        rest = text.to_frame().select(pl.col("question").str.slice(pl.lit(kept))).to_series()
        tail = shared_tail(rest.filter(known), share)
        ends = _overlaps(rest, tail, at_end=True)
        # What a question lacks of the prompt belongs to it: else "dog?" would be "Is there a dog?" without its head.
        middle = pl.DataFrame({"rest": rest, "length": rest.str.len_chars().cast(pl.Int64) - ends}).select(
            pl.col("rest").str.slice(0, "length").str.strip_chars()
        )
        lacks = pl.Series(len(head) - kept), pl.Series(len(tail) - ends)
        whole = pl.DataFrame({"head": lacks[0], "middle": middle.to_series(), "tail": lacks[1]})
        text = whole.select(pl.format("{} {} {}", "head", "tail", "middle")).to_series()
        parts.append(pl.DataFrame({"row": rows, "particular": text}))
    return pl.concat(parts).sort("row")["particular"]


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

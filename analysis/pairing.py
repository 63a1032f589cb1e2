"""Bring the samples of several runs on one task side by side, question by question."""

from __future__ import annotations

__all__ = ["Paired", "cluster_codes", "pair_runs"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.errors import LogError

Floats = NDArray[np.float64]

_NEEDED = ("run", "task", "doc_id", "doc_key", "cluster", "question", "target", "score")


@dataclass(frozen=True)
class Paired:
    """R runs by N questions (the union of what the runs logged); NaN where a run has no score.

    `rows` holds the row number of each run's sample in the frame that was paired, -1 where there is none.
    """

    runs: list[str]
    rows: NDArray[np.int64]  # (runs, questions)
    score: Floats  # (runs, questions)
    cluster: NDArray[np.int64]  # (questions,), codes 0..C-1

    @property
    def correct(self) -> Floats:
        """(runs, questions): 1 where the score is 0.5 or more, 0 below, NaN where missing."""
        return np.where(np.isnan(self.score), np.nan, (self.score >= 0.5).astype(float))

    @property
    def singletons(self) -> bool:
        """Whether no two questions share a cluster."""
        return self.cluster.size == 0 or int(self.cluster.max()) + 1 == self.cluster.size


def pair_runs(samples: pl.DataFrame, runs: Sequence[str]) -> Paired:
    """Pair the samples of one task under one condition.

    By `doc_key` where every run has it; else by doc_id, target and the question that remains when each run's common
    prefix and suffix are removed (models word their prompts differently).

    Raises
    ------
    LogError
        If one doc_id has different targets in two runs, or several runs share no question.
    """
    needed = [name for name in _NEEDED if name in samples.columns]
    frame = samples.select(needed).with_row_index("row").filter(pl.col("run").is_in(list(runs)))
    frame, key = _with_key(frame, list(runs))
    questions = frame.group_by(key, maintain_order=True).agg(pl.col("cluster").first()).with_row_index("place")
    frame = frame.join(questions.select("place", *key), on=key, how="left", maintain_order="left")
    rows = np.full((len(runs), questions.height), -1, dtype=np.int64)
    score = np.full((len(runs), questions.height), np.nan)
    for index, run in enumerate(runs):
        part = frame.filter(pl.col("run") == run)
        at = part["place"].to_numpy()
        rows[index, at] = part["row"].to_numpy()
        score[index, at] = part["score"].fill_null(np.nan).to_numpy()
    if len(runs) > 1 and questions.height and int((rows >= 0).sum(axis=0).max()) < 2:
        raise LogError(_nothing_shared(frame, runs))
    return Paired(list(runs), rows, score, cluster_codes(questions["cluster"]))


def cluster_codes(names: pl.Series) -> NDArray[np.int64]:
    """Number the clusters 0..C-1 in the order of their names: (questions,)."""
    return (names.cast(pl.String).fill_null("").rank("dense").cast(pl.Int64) - 1).to_numpy()


def _with_key(frame: pl.DataFrame, runs: list[str]) -> tuple[pl.DataFrame, list[str]]:
    """Add the columns that two samples share where they answer the same question, and name them."""
    if frame["doc_key"].null_count() == 0:
        # Two documents may be identical in text and image: the k-th of one run meets the k-th of the other.
        name = pl.col("doc_id").cast(pl.String)
        frame = frame.sort(name.cast(pl.Int64, strict=False), name, maintain_order=True)
        return frame.with_columns(pl.int_range(pl.len()).over("run", "doc_key").alias("repeat")), ["doc_key", "repeat"]
    _refuse_other_targets(frame)
    seen = frame.select("run", "doc_id").unique().group_by("doc_id").len().filter(pl.col("len") == len(runs))
    frame = frame.with_columns(pl.col("doc_id").is_in(seen["doc_id"].implode()).alias("common"))
    parts = [frame.filter(pl.col("run") == run) for run in runs]
    return pl.concat([part.with_columns(_particular(part)) for part in parts]), ["doc_id", "particular"]


def _particular(part: pl.DataFrame) -> pl.Series:
    """What is particular to each question of a run; nothing for those that other runs lack: their doc_id tells them."""
    text = part["question"].cast(pl.String)
    inside = text.filter(part["common"])
    head = _shared_head(inside)
    tail = _shared_tail(inside.str.slice(head))
    length = (text.str.len_chars().cast(pl.Int64) - head - tail).clip(0)
    kept = part["common"] & (len(inside) > 1)
    middle = pl.DataFrame({"text": text, "length": length, "kept": kept}).select(
        pl.when("kept").then(pl.col("text").str.slice(head, pl.col("length")).str.strip_chars()).otherwise(pl.lit(""))
    )
    return middle.to_series().alias("particular")


def _shared_head(texts: pl.Series) -> int:
    """Length of the common prefix; none of a single text, which would vanish whole."""
    if len(texts) < 2:
        return 0
    first, last = str(texts.min()), str(texts.max())
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _shared_tail(texts: pl.Series) -> int:
    """Length of the common suffix, by halving: a suffix is shared where every shorter one is."""
    if len(texts) < 2:
        return 0
    lengths = texts.str.len_chars()
    shortest = str(texts.filter(lengths == lengths.min())[0])
    shared, beyond = 0, len(shortest) + 1
    while beyond - shared > 1:
        middle = (shared + beyond) // 2
        if texts.str.ends_with(shortest[-middle:]).all():
            shared = middle
        else:
            beyond = middle
    return shared


def _refuse_other_targets(frame: pl.DataFrame) -> None:
    if frame.select("doc_id", "target").unique().height == frame["doc_id"].n_unique():
        return
    clash = (
        frame.group_by("doc_id", maintain_order=True).agg("run", "target").filter(pl.col("target").list.n_unique() > 1)
    )
    row: dict[str, Any] = clash.row(0, named=True)
    said = dict(zip(row["target"], row["run"], strict=True))
    shown = "; ".join(f"{run} has {target[:60]!r}" for target, run in list(said.items())[:3])
    raise LogError(
        f"task {frame['task'][0]}: doc_id {row['doc_id']} has different targets in different runs ({shown}); "
        f"{clash.height} such documents. These runs saw different data: evaluate them on one version of the task."
    )


def _nothing_shared(frame: pl.DataFrame, runs: Sequence[str]) -> str:
    shown = []
    for run in list(runs)[:2]:
        part = frame.filter(pl.col("run") == run)
        shown.append(f"{run} has {part.height} (first: doc_id {part['doc_id'][0]}, {part['question'][0][:60]!r})")
    return (
        f"task {frame['task'][0]}: the runs {', '.join(runs)} have no question in common; {'; '.join(shown)}. "
        "Evaluate them on the same documents, or analyze them apart."
    )

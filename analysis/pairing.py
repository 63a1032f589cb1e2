"""Bring the samples of several runs on one task side by side, question by question."""

from __future__ import annotations

__all__ = ["Paired", "pair_runs"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.errors import LogError

Floats = NDArray[np.float64]


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
    frame = samples.with_row_index("row").filter(pl.col("run").is_in(list(runs)))
    frame = _with_keys(frame, list(runs))
    keys = frame.group_by("key", maintain_order=True).agg(pl.col("cluster").first())
    place = dict(zip(keys["key"], range(keys.height), strict=True))
    rows = np.full((len(runs), keys.height), -1, dtype=np.int64)
    score = np.full((len(runs), keys.height), np.nan)
    for index, run in enumerate(runs):
        part = frame.filter(pl.col("run") == run)
        at = np.fromiter((place[key] for key in part["key"]), dtype=np.int64, count=part.height)
        rows[index, at] = part["row"].to_numpy()
        score[index, at] = part["score"].fill_null(np.nan).to_numpy()
    if len(runs) > 1 and keys.height and int((rows >= 0).sum(axis=0).max()) < 2:
        raise LogError(_nothing_shared(frame, runs))
    _, cluster = np.unique(keys["cluster"].to_numpy().astype(str), return_inverse=True)
    return Paired(list(runs), rows, score, cluster.astype(np.int64))


def _with_keys(frame: pl.DataFrame, runs: list[str]) -> pl.DataFrame:
    if frame["doc_key"].null_count() == 0:
        # Two documents may be identical in text and image: the k-th of one run meets the k-th of the other.
        frame = frame.with_columns(pl.col("doc_id").cast(pl.Int64, strict=False).alias("order"))
        frame = frame.sort("order", "doc_id", maintain_order=True)
        repeat = pl.int_range(pl.len()).over("run", "doc_key").cast(pl.String)
        return frame.with_columns(pl.concat_str(["doc_key", repeat], separator=" ").alias("key"))
    _refuse_other_targets(frame)
    shared = frame.group_by("doc_id").agg(pl.col("run").n_unique().alias("runs")).filter(pl.col("runs") == len(runs))
    common = set(shared["doc_id"])
    texts: list[pl.DataFrame] = []
    for run in runs:
        part = frame.filter(pl.col("run") == run)
        inside = [text for doc, text in zip(part["doc_id"], part["question"], strict=True) if doc in common]
        texts.append(part.with_columns(pl.Series("key", _stripped(part, inside, common), dtype=pl.String)))
    return pl.concat(texts)


def _refuse_other_targets(frame: pl.DataFrame) -> None:
    clash = (
        frame.group_by("doc_id", maintain_order=True).agg("run", "target").filter(pl.col("target").list.n_unique() > 1)
    )
    if clash.height:
        row: dict[str, Any] = clash.row(0, named=True)
        said = dict(zip(row["target"], row["run"], strict=True))
        shown = "; ".join(f"{run} has {target[:60]!r}" for target, run in list(said.items())[:3])
        raise LogError(
            f"task {frame['task'][0]}: doc_id {row['doc_id']} has different targets in different runs ({shown}); "
            f"{clash.height} such documents. These runs saw different data: evaluate them on one version of the task."
        )


def _stripped(part: pl.DataFrame, inside: list[str], common: set[str]) -> list[str]:
    """doc_id and what is particular to each question; questions outside the common ones keep their doc_id alone."""
    head = _shared_length(inside)
    tail = _shared_length([text[head:][::-1] for text in inside])
    keys = []
    for doc, text in zip(part["doc_id"], part["question"], strict=True):
        middle = text[head : len(text) - tail] if doc in common and len(inside) > 1 else ""
        keys.append(f"{doc} {middle.strip()}")
    return keys


def _shared_length(texts: list[str]) -> int:
    """Length of the common prefix; none of a single text, which would vanish whole."""
    if len(texts) < 2:
        return 0
    first, last = min(texts), max(texts)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _nothing_shared(frame: pl.DataFrame, runs: Sequence[str]) -> str:
    shown = []
    for run in list(runs)[:2]:
        part = frame.filter(pl.col("run") == run)
        shown.append(f"{run} has {part.height} (first: doc_id {part['doc_id'][0]}, {part['question'][0][:60]!r})")
    return (
        f"task {frame['task'][0]}: the runs {', '.join(runs)} have no question in common; {'; '.join(shown)}. "
        "Evaluate them on the same documents, or analyze them apart."
    )

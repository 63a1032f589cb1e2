"""Bring the samples of several runs on one task side by side, question by question."""

from __future__ import annotations

__all__ = ["Paired", "cluster_codes", "pair_each", "pair_runs", "refuse_other_targets"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis._codes import Codes, numbered, text_codes
from vlm_backbones.analysis._question_text import particular_texts
from vlm_backbones.analysis._sample_frame import split_by
from vlm_backbones.errors import LogError

Floats = NDArray[np.float64]

NEEDED = ("run", "task", "doc_id", "doc_key", "cluster", "question", "target", "score", "correct")
_ROWS_AT_ONCE = 2**20
_NO_TARGET = np.uint32(np.iinfo(np.uint32).max)


@dataclass(frozen=True)
class Paired:
    """R runs by N questions (the union of what the runs logged); NaN where a run has no score.

    `rows` holds the row number of each run's sample in the frame that was paired, -1 where there is none. `is_share`
    is False where scores have no threshold of correctness (a judge's 0 to 10, an error rate).
    """

    runs: list[str]
    rows: NDArray[np.int64]  # (runs, questions)
    score: Floats  # (runs, questions)
    cluster: NDArray[np.int64]  # (questions,), codes 0..C-1
    is_share: bool = True

    @property
    def correct(self) -> Floats:
        """(runs, questions): 1 where the score is 0.5 or more, 0 below, NaN where missing or without a threshold."""
        if not self.is_share:
            return np.full_like(self.score, np.nan)
        return np.where(np.isnan(self.score), np.nan, (self.score >= 0.5).astype(float))

    @property
    def singletons(self) -> bool:
        """Whether no two questions share a cluster."""
        return self.cluster.size == 0 or int(self.cluster.max()) + 1 == self.cluster.size

    def of(self, runs: Sequence[str]) -> Paired:
        """Some of the runs, on the questions that any of them logged."""
        if list(runs) == self.runs:
            return self
        places = [self.runs.index(run) for run in runs]
        rows, score, cluster = self.rows[places], self.score[places], self.cluster
        kept = (rows >= 0).any(axis=0)
        if not kept.all():
            rows, score = rows[:, kept], score[:, kept]
            cluster = np.unique(cluster[kept], return_inverse=True)[1].astype(np.int64)
        return Paired(list(runs), rows, score, cluster, self.is_share)


def pair_each(samples: pl.DataFrame, whole: Paired) -> Callable[[Sequence[str]], Paired]:
    """`pair_runs` for some of the runs of `whole`: taken from it where who meets whom depends on no other run."""
    without_key = samples["doc_key"].null_count()
    # without keys a subset of the runs may meet elsewhere, unless all meet under every number
    is_met = without_key == samples.height and whole.rows.shape[1] == samples["doc_id"].n_unique()
    if without_key == 0 or is_met:
        return whole.of
    return lambda some: pair_runs(samples, some)


def pair_runs(samples: pl.DataFrame, runs: Sequence[str]) -> Paired:
    """Pair the samples of one task under one condition.

    By `doc_key` where every run has it; else by doc_id, target and the question: its text as logged, or what remains
    of it without each run's own prompt around (models word their prompts differently). Runs that share no question
    have no column in common.

    Raises
    ------
    LogError
        If one document has different targets in two runs.
    """
    numbers = samples.select("run").with_row_index("row")
    parts, own = ({run: part for (run,), part in split_by(frame, "run")} for frame in (samples, numbers))
    of_runs, end = {}, 0
    for run in (name for name in runs if name in parts):
        of_runs[run] = slice(end, end := end + parts[run].height)
    frame = pl.concat([parts[run] for run in of_runs] or [samples.clear()])
    place, first = _questions(frame, list(of_runs.values()))
    rows = np.full((len(runs), first.size), -1, dtype=np.int64)
    score = np.full((len(runs), first.size), np.nan)
    for run, of_run in of_runs.items():
        at = runs.index(run), place[of_run]
        rows[at], score[at] = own[run]["row"].to_numpy(), parts[run]["score"].fill_null(np.nan).to_numpy()
    return Paired(list(runs), rows, score, cluster_codes(frame["cluster"].gather(first)), _is_share(frame))


def _is_share(frame: pl.DataFrame) -> bool:
    """Whether scores have a threshold: `correct` is null beside a score where they have none."""
    return "correct" not in frame.columns or not (frame["correct"].is_null() & frame["score"].is_not_null()).any()


def cluster_codes(names: pl.Series) -> NDArray[np.int64]:
    """Number the clusters 0..C-1 in the order of their names: (questions,)."""
    return (names.cast(pl.String).fill_null("").rank("dense").cast(pl.Int64) - 1).to_numpy()


def _questions(frame: pl.DataFrame, of_runs: Sequence[slice]) -> tuple[Codes, Codes]:
    """Return the question of each row, equal where two rows meet, and the first row of each question."""
    refuse_other_targets(frame)
    if frame["doc_key"].null_count():
        documents = text_codes(frame["doc_id"])
        return numbered(documents, particular_texts(documents, frame["question"], of_runs))
    rank = _rank_by_name(frame["doc_id"])
    order = np.argsort(rank, kind="stable").astype(np.uint32)
    key = _with_repeats(text_codes(frame["doc_key"]), rank, of_runs)[order]
    place, first = numbered(key, np.zeros_like(key))
    question = np.empty_like(place)
    question[order] = place
    return question, order[first]


def _rank_by_name(documents: pl.Series) -> Codes:
    """The place of each row's document where they are sorted: numbers by size, other names before them."""
    names, name = documents.cast(pl.Categorical()), pl.col("name").cast(pl.String)
    known = names.unique().to_frame("name").sort(name.cast(pl.Int64, strict=False), name)["name"]
    codes = text_codes(names)
    rank = np.empty(int(codes.max(initial=0)) + 1, dtype=np.uint32)
    rank[text_codes(known)] = np.arange(known.len())
    return rank[codes]


def _with_repeats(key: Codes, rank: Codes, of_runs: Sequence[slice]) -> Codes:
    """Two documents may be identical in text and image: the k-th of one run meets the k-th of the other."""
    repeat = np.zeros_like(key)
    for of_run in of_runs:
        own = pl.DataFrame({"key": key[of_run], "rank": rank[of_run]})
        if own["key"].n_unique() < own.height:
            repeat[of_run] = own.select(pl.col("rank").rank("ordinal").over("key")).to_series().to_numpy() - 1
    if not repeat.any():
        return key
    return pl.Series(key.astype(np.uint64) << 32 | repeat).rank("dense").to_numpy()


def refuse_other_targets(frame: pl.DataFrame) -> None:
    """Raise LogError where the runs of a task have different targets for one document: one doc_key where every sample
    has one, else one doc_id."""
    name = "doc_id" if frame["doc_key"].null_count() else "doc_key"
    if not _has_other_targets(frame, name):
        return
    place = pl.col("doc_id").cast(pl.String)
    ordered = frame.sort(place.cast(pl.Int64, strict=False), place, maintain_order=True)
    # a run may have one document twice, with a target each: the k-th of one run meets the k-th of the other
    repeat = pl.int_range(pl.len()).over("run", name).alias("repeat")
    documents = ordered.with_columns(repeat).group_by(name, "repeat", maintain_order=True)
    clash = documents.agg("run", "target", pl.col("doc_id").first().alias("number")).filter(
        pl.col("target").list.n_unique() > 1
    )
    if not clash.height:
        return
    row: dict[str, Any] = clash.row(0, named=True)
    said = dict(zip(row["target"], row["run"], strict=True))
    shown = "; ".join(f"{run} has {target[:60]!r}" for target, run in list(said.items())[:3])
    raise LogError(
        f"task {frame['task'][0]}: doc_id {row['number']} has different targets in different runs ({shown}); "
        f"{clash.height} such documents. These runs saw different data: evaluate them on one version of the task."
    )


def _has_other_targets(frame: pl.DataFrame, name: str) -> bool:
    """Whether any two samples of one document have different targets."""
    documents, targets = text_codes(frame[name]), text_codes(frame["target"])
    target_of = np.full(int(documents.max(initial=0)) + 1, _NO_TARGET)
    for at in range(0, documents.size, _ROWS_AT_ONCE):
        document, target = documents[at : at + _ROWS_AT_ONCE], targets[at : at + _ROWS_AT_ONCE]
        is_new = target_of[document] == _NO_TARGET
        target_of[document[is_new]] = target[is_new]
        if (target_of[document] != target).any():
            return True
    return False

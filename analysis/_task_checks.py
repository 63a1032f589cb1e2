"""What of the samples cannot be scored, thresholded or compared, each said in words."""

from __future__ import annotations

__all__ = ["copies", "no_threshold", "strange_targets", "without_correctness", "without_incomparable"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis._computed_scores import CHOICE, is_coordinate_task, with_places
from vlm_backbones.analysis._sample_frame import in_slices, split_by
from vlm_backbones.analysis._sample_scores import lower_is_better
from vlm_backbones.analysis.pairing import NEEDED, pair_runs, refuse_other_targets
from vlm_backbones.errors import LogError

_SOUGHT = 100_000
_LOOKED_AT = 1000
_FEWEST_ALIKE = 20


def strange_targets(frame: pl.DataFrame, path: Path) -> list[str]:
    """Say how many samples of a file have options, none of which is the target; or a target that is no place."""
    if is_coordinate_task(frame["target"]):
        return _without_place(frame, path)
    if "option_logprobs" not in frame.columns:
        return []
    odd = frame.filter(pl.col("score").is_null() & (pl.col("headline").cast(pl.String) == CHOICE))
    if not odd.height:
        return []
    first = odd.select("doc_id", "target", "option_logprobs").row(0, named=True)
    names = ", ".join(str(option["option"])[:40] for option in first["option_logprobs"][:8])
    return [
        f"{path}: target not in the options in {odd.height} of {frame.height} samples (first: doc_id "
        f"{first['doc_id']}, target {str(first['target'])[:60]!r}, options {names}); not scored, counted as missing."
    ]


def _without_place(frame: pl.DataFrame, path: Path) -> list[str]:
    odd = frame.filter(~pl.col("doc_id").is_in(with_places(frame)["doc_id"].implode()))
    if not odd.height:
        return []
    first = odd.select("doc_id", "target").row(0, named=True)
    return [
        f"{path}: the target is no place in {odd.height} of {frame.height} samples (first: doc_id {first['doc_id']}, "
        f"target {str(first['target'])[:60]!r}); left out of the table coordinates, counted as missing."
    ]


def copies(samples: pl.DataFrame) -> list[str]:
    """Name the runs whose samples are all the same: one evaluation that was copied or repeated."""
    keys = ("run", "task", "condition")
    said = pl.struct("doc_id", "answer", "score", "confidence").hash().sum().alias("said")
    signs = in_slices(samples, lambda part: part.group_by(*keys, maintain_order=True).agg(pl.len(), said))
    signs = signs.group_by(*keys, maintain_order=True).sum()
    alike: dict[frozenset[tuple[Any, ...]], list[str]] = {}
    for (run,), part in split_by(signs, "run"):
        alike.setdefault(frozenset(part.drop("run").cast({pl.Categorical: pl.String}).iter_rows()), []).append(run)
    return [
        f"{' and '.join(runs)} gave the same answer with the same score to every question; if they are one evaluation "
        "twice, leave one out."
        for signed, runs in alike.items()
        if len(runs) > 1 and sum(n for _, _, n, _ in signed) >= _FEWEST_ALIKE
    ]


def no_threshold(samples: pl.DataFrame, headline: Mapping[str, str]) -> dict[str, str]:
    """Tasks whose scores are neither right nor wrong at 0.5, and why."""
    low, high = pl.col("score").min().alias("low"), pl.col("score").max().alias("high")
    ends = in_slices(samples, lambda part: part.group_by("task").agg(low, high))
    ends = ends.group_by("task").agg(pl.col("low").min(), pl.col("high").max())
    reasons = {}
    for task, low, high in ends.sort("task").iter_rows():
        if low is not None and (low < 0 or high > 1):
            reasons[str(task)] = f"{headline[str(task)]} runs from {low:g} to {high:g}, outside 0 to 1"
        elif low is not None and lower_is_better(headline[str(task)]):
            reasons[str(task)] = f"{headline[str(task)]} is better the lower it is"
    return reasons


def without_correctness(samples: pl.DataFrame, tasks: Mapping[str, str]) -> pl.DataFrame:
    """The samples, with `correct` null in these tasks."""
    if not tasks:
        return samples
    unknown = pl.col("task").cast(pl.String).is_in(list(tasks))
    return samples.with_columns(pl.when(~unknown).then("correct").alias("correct"))


def without_incomparable(
    samples: pl.DataFrame, metrics: pl.DataFrame, notes: list[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Leave out the tasks whose runs saw different data; a run that meets no other is only named.

    Raises
    ------
    LogError
        If no task is left.
    """
    refused: list[tuple[str, str]] = []
    reasons = []
    for (task, condition), part in split_by(samples, "task", "condition"):
        try:
            said = _who_meets_whom(part)
        except LogError as error:
            refused.append((task, condition))
            reasons.append(str(error))
            continue
        notes += said
    if len(refused) == in_slices(samples, lambda part: part.select("task", "condition").unique()).n_unique():
        raise LogError(" ".join(reasons))
    notes += [f"Left out: {reason}" for reason in reasons]
    for task, condition in refused:
        kept = ~((pl.col("task") == task) & (pl.col("condition") == condition))
        samples, metrics = samples.filter(kept), metrics.filter(kept)
    return samples, metrics


def _who_meets_whom(part: pl.DataFrame) -> list[str]:
    """Name the runs of a task that share no question with another; LogError where no two runs share one."""
    runs = part["run"].unique(maintain_order=True).to_list()
    if len(runs) < 2:
        return []
    refuse_other_targets(part)
    looked_at = pl.col("doc_id").is_in(_some_of_all(part, runs).implode())
    few = [name for name in NEEDED if name in part.columns]
    shared = _shared(in_slices(part, lambda some: some.select(few).filter(looked_at)), runs)
    if not shared.all():
        shared = _shared(part, runs)
    np.fill_diagonal(shared, False)
    if not shared.any():
        raise LogError(_nothing_shared(part, runs))
    task = part["task"][0]
    lonely = [run for run, others in zip(runs, shared, strict=True) if not others.any()]
    return [
        f"task {task}: {run} has no question in common with the other runs; it is compared with none." for run in lonely
    ]


def _some_of_all(part: pl.DataFrame, runs: list[str]) -> pl.Series:
    """A thousand of the first run's documents that all runs have: where these pair, the rest need not be paired."""
    first = in_slices(part, lambda some: some.filter(run=runs[0]).select("doc_id"))["doc_id"].head(_SOUGHT)
    few = in_slices(part, lambda some: some.select("doc_id").filter(pl.col("doc_id").is_in(first.implode())))
    counts = few.group_by("doc_id", maintain_order=True).len()
    return counts.filter(pl.col("len") == len(runs))["doc_id"].head(_LOOKED_AT)


def _shared(part: pl.DataFrame, runs: list[str]) -> NDArray[np.bool_]:
    """Which runs share a question: (runs, runs)."""
    has = (pair_runs(part, runs).rows >= 0).astype(np.float32)  # (runs, questions)
    return np.asarray(has @ has.T > 0)


def _nothing_shared(part: pl.DataFrame, runs: list[str]) -> str:
    shown = []
    for run in runs[:2]:
        own = part.filter(pl.col("run") == run)
        shown.append(f"{run} has {own.height} (first: doc_id {own['doc_id'][0]}, {own['question'][0][:60]!r})")
    return (
        f"task {part['task'][0]}: the runs {', '.join(runs)} have no question in common; {'; '.join(shown)}. "
        "Evaluate them on the same documents, or analyze them apart."
    )

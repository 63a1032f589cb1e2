"""Scores from logged samples: values, clustered standard errors, and the samples themselves for pairing."""

from __future__ import annotations

__all__ = ["Wanted", "logged_claims", "parse_wanted", "wanted_of"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from vlm_backbones.analysis._aggregates import aggregate_of, is_aggregate, total_names
from vlm_backbones.analysis.leaderboard.claimed import Claim, Entry, Unit, visible
from vlm_backbones.analysis.leaderboard.compare import binomial_error
from vlm_backbones.analysis.pairing import Paired, pair_runs
from vlm_backbones.analysis.record import lower_is_better
from vlm_backbones.analysis.samples import Logs
from vlm_backbones.analysis.table_scores import scores
from vlm_backbones.errors import ConfigError


@dataclass(frozen=True)
class Wanted:
    """`--benchmark NAME=TASK[:METRIC]`: the task's metric stands in the column NAME.

    Of a shipped table's column also its `unit`, and whether the metric is the mean of its samples; such a column is
    `optional`: where a run lacks the metric, its score is missing.
    """

    name: str
    task: str
    metric: str | None
    unit: Unit | None = None
    is_mean: bool = True
    optional: bool = False


def parse_wanted(text: str) -> Wanted:
    """Read NAME=TASK or NAME=TASK:METRIC.

    Examples
    --------
    >>> parse_wanted("POPE=pope:pope_f1_score")
    Wanted(name='POPE', task='pope', metric='pope_f1_score')
    """
    name, _, rest = text.partition("=")
    task, colon, metric = rest.partition(":")
    if not name.strip() or not task.strip() or (colon and not metric.strip()):
        raise ConfigError(f"--benchmark {text!r} is not NAME=TASK or NAME=TASK:METRIC, as POPE=pope:pope_f1_score.")
    return Wanted(visible(name.strip()), task.strip(), metric.strip() or None)


def wanted_of(task: str, wanted: Sequence[Wanted]) -> list[Wanted]:
    """The columns that a task fills; its own name where none was asked for."""
    return [one for one in wanted if one.task == task] or [Wanted(visible(task), task, None)]


def logged_claims(
    logs: Logs, entries: Mapping[str, Entry], wanted: Sequence[Wanted], *, bootstrap: int, seed: int
) -> tuple[list[Claim], dict[str, Paired]]:
    """Return what the samples say about each (run, column), and the paired samples of each column.

    Only the condition `clean` counts. Values and intervals are those of the table `scores`.
    """
    clean = pl.col("condition") == "clean"
    logs = replace(logs, samples=logs.samples.filter(clean), metrics=logs.metrics.filter(clean))
    table = scores(logs, bootstrap=bootstrap, seed=seed).filter((pl.col("n") > 0) & pl.col("value").is_not_nan())
    claims: list[Claim] = []
    samples: dict[str, Paired] = {}
    for task, headline in logs.headline.items():
        for column in wanted_of(task, wanted):
            metric = column.metric or _total_of(table, task) or headline
            rows = table.filter((pl.col("task") == task) & (pl.col("metric") == metric))
            if not rows.height or not (column.is_mean or is_aggregate(metric)):
                continue
            if column.name in samples:
                raise ConfigError(f"two tasks fill the column {column.name}. Give each a name of its own: --benchmark.")
            runs = rows["run"].to_list()
            scored, is_share = _scored_by(logs, task, metric, headline, runs)
            paired = pair_runs(scored, runs)
            samples[column.name] = replace(paired, runs=[entries[run].name for run in runs])
            claims += _claims(rows, paired, entries, column.name, metric, is_share)
    return claims, samples


def _total_of(table: pl.DataFrame, task: str) -> str | None:
    """MME's perception total, which published tables mean, where every run's logs allow it."""
    rows = table.filter(pl.col("task") == task)
    found = [name for name in total_names(rows["metric"].unique()) if "perception" in name]
    known = rows.filter(pl.col("metric").is_in(found))["value"]
    return found[0] if found and known.is_finite().all() and known.len() == rows["run"].n_unique() else None


def _claims(
    rows: pl.DataFrame,
    paired: Paired,
    entries: Mapping[str, Entry],
    benchmark: str,
    metric: str,
    is_share: bool | None,
) -> list[Claim]:
    """One claim a row of `scores`; the rows are in the order of `paired.runs`."""
    in_unit = bool(np.nanmin(paired.score) >= 0 and np.nanmax(paired.score) <= 1) if is_share is None else is_share
    lower = lower_is_better(metric)
    return [
        Claim(
            entries[row["run"]],
            benchmark,
            visible(metric),
            row["value"],
            "samples",
            f"samples of {entries[row['run']].name}",
            unit="fraction" if in_unit and not lower else "points",
            higher_is_better=not lower,
            n=row["n"],
            n_missing=row["n_missing"],
            ci_low=row["ci_low"],
            ci_high=row["ci_high"],
            error=_clustered_error(paired, place, in_unit),
        )
        for place, row in enumerate(rows.to_dicts())
    ]


def _scored_by(
    logs: Logs, task: str, metric: str, headline: str, runs: Sequence[str]
) -> tuple[pl.DataFrame, bool | None]:
    """The task's samples with the metric as their score, and whether it is a share; None where the scores tell.

    A metric that is no mean becomes one of pseudo-values: their differences test it, their variance is its own.
    """
    part = logs.samples.filter((pl.col("task") == task) & pl.col("run").is_in(list(runs)))
    if metric == headline:
        return part, None
    own = logs.metrics.filter((pl.col("task") == task) & (pl.col("metric") == metric)).select("run", "doc_id", "value")
    part = part.join(own, on=["run", "doc_id"], how="left", maintain_order="left")
    if aggregate_of(metric, part) is None:
        return part.with_columns(pl.col("value").fill_nan(None).alias("score")).drop("value"), None
    linear, is_share = [], True
    for _, rows in part.filter(pl.col("value").is_not_null()).group_by("run", maintain_order=True):
        aggregate = aggregate_of(metric, rows)
        assert aggregate is not None
        linear.append(rows.with_columns(pl.Series("score", aggregate.pseudo_values)))
        is_share = aggregate.is_share
    return pl.concat(linear).drop("value"), is_share


def _clustered_error(paired: Paired, run: int, in_unit: bool) -> float:
    """Standard error of a run's mean, questions of one image summed; never below what its share could hide.

    A run that is always right has no variance; then it is the binomial error of as many questions as there are images.
    """
    score = paired.score[run]
    known = ~np.isnan(score)
    mean = float(score[known].mean())
    sums = np.bincount(paired.cluster[known], weights=score[known] - mean)
    error = float(np.sqrt((sums**2).sum())) / int(known.sum())
    if not in_unit:
        return error
    clusters = np.unique(paired.cluster[known]).size
    effective = mean * (1 - mean) / error**2 if error > 0 else float(clusters)
    return binomial_error(mean, effective) if math.isfinite(effective) else error

"""Table `scores`: every metric of every run, task and condition, with its interval."""

from __future__ import annotations

__all__ = ["scores"]

import math
from typing import Any

import numpy as np
import polars as pl

from vlm_backbones.analysis.bootstrap import SharedBootstrap, cluster_sums, interval, wilson
from vlm_backbones.analysis.columns import build_table
from vlm_backbones.analysis.pairing import cluster_codes
from vlm_backbones.analysis.record import LOWER_IS_BETTER
from vlm_backbones.analysis.samples import Logs


def scores(logs: Logs, *, bootstrap: int = 10_000, seed: int = 0) -> pl.DataFrame:
    """Mean of each metric: Wilson's interval for 0/1 without shared images, else percentile bootstrap over clusters.

    `n_missing` counts the questions of the task that another run has and this one lacks or could not score;
    `value_missing_wrong` is the mean with those counted as wrong.
    """
    rows: list[dict[str, Any]] = []
    samples = logs.samples
    asked = {
        (task, condition): n
        for task, condition, n in samples.group_by("task", "condition").agg(pl.col("doc_id").n_unique()).iter_rows()
    }
    frame = _with_headline(logs)
    resample = SharedBootstrap(bootstrap, seed)
    for key, part in frame.group_by("run", "task", "condition", "metric", maintain_order=True):
        run, task, condition, metric = (str(name) for name in key)
        info = logs.runs[run]
        start = {"run": run, "backbone": info.backbone, "seed": info.seed, "task": task, "condition": condition}
        rows.append(start | {"metric": metric} | _mean(part, metric, asked[task, condition], resample))
    return build_table("scores", rows)


def _with_headline(logs: Logs) -> pl.DataFrame:
    """The logged metrics, with the headline metric first and present even where it was computed here."""
    columns = ["run", "task", "condition", "cluster", "metric", "value"]
    kinds = {name: logs.metrics.schema[name] for name in ("task", "metric")}
    headline = pl.DataFrame(list(logs.headline.items()), schema=kinds, orient="row")
    own = logs.samples.join(headline, on="task").rename({"score": "value"})
    rest = logs.metrics.join(headline, on=["task", "metric"], how="anti")
    return pl.concat([own.select(columns), rest.select(columns)])


def _mean(part: pl.DataFrame, metric: str, asked: int, resample: SharedBootstrap) -> dict[str, Any]:
    kept = part.filter(pl.col("value").is_not_null() & pl.col("value").is_not_nan())
    value = kept["value"].to_numpy()
    n, missing = value.size, asked - value.size
    if n == 0:
        return {"value": math.nan, "n": 0, "n_missing": missing, "note": "no sample has this score"}
    mean, note = float(value.mean()), []
    cluster = cluster_codes(kept["cluster"])
    single, binary = int(cluster.max()) + 1 == n, bool(np.isin(value, (0.0, 1.0)).all())
    if single and binary:
        low, high = wilson(float(value.sum()), n)
    else:
        sums = cluster_sums(np.column_stack([value, np.ones(n)]), cluster)
        drawn = resample.totals(sums)
        low, high = interval(drawn[:, 0] / drawn[:, 1])
        note.append("bootstrap over images" if not single else "bootstrap")
    lower = metric in LOWER_IS_BETTER
    in_unit = not lower and bool((value >= 0).all() and (value <= 1).all())
    if lower:
        note.append("lower is better; mean over the answers that have it")
    elif not in_unit:
        note.append("values leave 0..1: a threshold of 0.5 may mean little")
    wrong = mean * n / asked if in_unit else math.nan
    result = {"value": mean, "ci_low": low, "ci_high": high, "n": n, "n_missing": missing}
    return result | {"value_missing_wrong": wrong, "note": "; ".join(note)}

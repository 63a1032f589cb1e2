"""Table `scores`: every metric of every run, task and condition, with its interval."""

from __future__ import annotations

__all__ = ["MINUS_CLEAN", "scores"]

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis._aggregates import SumOfRatios, aggregate_of, total_names
from vlm_backbones.analysis._sample_frame import split_by, where
from vlm_backbones.analysis.bootstrap import SharedBootstrap, cluster_sums, interval, wilson
from vlm_backbones.analysis.columns import build_table
from vlm_backbones.analysis.condition_pairs import pair_conditions
from vlm_backbones.analysis.pairing import cluster_codes
from vlm_backbones.analysis.record import lower_is_better
from vlm_backbones.analysis.samples import Logs

MINUS_CLEAN = "minus clean"
"""Ends the name of a metric whose rows hold the paired difference to the clean condition."""


def scores(logs: Logs, *, bootstrap: int = 10_000, seed: int = 0) -> pl.DataFrame:
    """Mean of each metric: Wilson's interval for 0/1 without shared images, else percentile bootstrap over clusters.

    `n_missing` counts the questions of the task that another run has and this one lacks or could not score;
    `value_missing_wrong` is the mean with those counted as wrong.

    A perturbed condition may hold fewer documents than `clean`. So each of its metrics is followed by a row
    "METRIC minus clean": the paired difference on the documents that have both; its note gives `clean` on these.
    """
    rows: list[dict[str, Any]] = []
    parts = dict(_parts(logs))
    asked = _asked(logs)
    resample = SharedBootstrap(bootstrap, seed)
    pairs: dict[tuple[str, str, str], pl.DataFrame] = {}
    for (run, task, condition, metric), part in parts.items():
        info = logs.runs[run]
        start = {"run": run, "backbone": info.backbone, "seed": info.seed, "task": task, "condition": condition}
        wanted = asked.get((task, condition, metric), asked[task, condition, ""])
        aggregate = aggregate_of(metric, part)
        found = (
            _mean(part, metric, wanted, resample) if aggregate is None else _total(part, aggregate, wanted, resample)
        )
        rows.append(start | {"metric": metric} | found)
        if condition != "clean" and (run, task, condition) not in pairs:
            pairs[run, task, condition] = _pair(where(logs.samples, run=run, task=task), condition)
        if condition != "clean":
            clean = parts.get((run, task, "clean", metric), part.clear())
            change = _change(pairs[run, task, condition], clean, part, metric, wanted, resample)
            rows += [start | {"metric": f"{metric} {MINUS_CLEAN}"} | change] if change else []
    return build_table("scores", rows)


def _pair(samples: pl.DataFrame, condition: str) -> pl.DataFrame:
    """The numbers of the same documents under `clean` (clean_id) and under a condition (doc_id)."""
    clean, perturbed = (samples["doc_id"][rows.tolist()] for rows in pair_conditions(samples, condition))
    return pl.DataFrame({"clean_id": clean, "doc_id": perturbed})


def _change(
    pairs: pl.DataFrame,
    clean: pl.DataFrame,
    perturbed: pl.DataFrame,
    metric: str,
    asked: int,
    resample: SharedBootstrap,
) -> dict[str, Any] | None:
    """The paired difference of a metric over the documents of one run that have it under both conditions."""
    own = pairs.join(clean, left_on="clean_id", right_on="doc_id").sort("clean_id")
    before = own.join(perturbed, on="doc_id", how="semi")
    after = before.select("doc_id").join(perturbed, on="doc_id", maintain_order="left")
    first, second = (_per_document(part, metric) for part in (before, after))
    both = ~np.isnan(first + second)
    if not both.any():
        return None
    columns = np.column_stack([first, second, np.ones(first.size)])[both]
    drawn = resample.totals(cluster_sums(columns, cluster_codes(before["cluster"].filter(pl.Series(both)))))
    n, mean, other = int(both.sum()), float(first[both].mean()), float(second[both].mean())
    low, high = interval((drawn[:, 1] - drawn[:, 0]) / drawn[:, 2], value=other - mean)
    ends = [f"{end:.4g}" for end in interval(drawn[:, 0] / drawn[:, 2], value=mean)]
    note = f"paired; clean on these documents: {mean:.4g} [{', '.join(ends)}]"
    return {"value": other - mean, "ci_low": low, "ci_high": high, "n": n, "n_missing": asked - n, "note": note}


def _per_document(part: pl.DataFrame, metric: str) -> NDArray[np.float64]:
    """Numbers whose mean is the metric of these documents, NaN where one has none: (documents,)."""
    aggregate = aggregate_of(metric, part)
    if aggregate is None:
        return part["value"].fill_null(math.nan).to_numpy()
    return np.full(part.height, math.nan) if math.isnan(aggregate.value) else aggregate.pseudo_values


def _asked(logs: Logs) -> dict[tuple[str, str, str], int]:
    """Questions of each (task, condition) that any run has, under the metric "", and of each metric that not every
    question has (MME's perception)."""
    samples: dict[tuple[str, str], int] = {}
    asked: dict[tuple[str, str, str], int] = {}
    for (task, condition), part in split_by(logs.samples, "task", "condition"):
        samples[task, condition], asked[task, condition, ""] = part.height, part["doc_id"].n_unique()
    for (task, condition, metric), part in split_by(logs.metrics, "task", "condition", "metric"):
        if part.height < samples[task, condition] and logs.headline.get(task) != metric:
            asked[task, condition, metric] = part["doc_id"].n_unique()
    return asked


def _parts(logs: Logs) -> Iterator[tuple[tuple[str, ...], pl.DataFrame]]:
    """The rows of each run, task, condition and metric: doc_id, cluster, value, and of totals the question_type.

    The headline metric comes first and is present even where it was computed here, then totals, then the others.
    """
    place = ("run", "task", "condition")
    of_place = dict(split_by(logs.samples, *place))
    for (run, task, condition), part in of_place.items():
        yield (run, task, condition, logs.headline[task]), part.rename({"score": "value"})
    rest = [(key, part) for key, part in split_by(logs.metrics, *place, "metric") if key[3] != logs.headline[key[1]]]
    totals = total_names(metric for (*_, metric), _ in rest)
    for key, part in rest:
        if key[3] in totals:
            types = of_place[key[:3]].select("doc_id", "question_type")
            yield key, part.join(types, on="doc_id", how="left", maintain_order="left")
    yield from ((key, part) for key, part in rest if key[3] not in totals)


def _total(part: pl.DataFrame, aggregate: SumOfRatios, asked: int, resample: SharedBootstrap) -> dict[str, Any]:
    """A metric of all answers together, with its percentile bootstrap over clusters."""
    value, n = aggregate.value, part["value"].count()
    result = {"value": value, "n": n, "n_missing": asked - n, "value_missing_wrong": math.nan}
    if math.isnan(value):
        return result | {
            "note": f"undefined, no answer counts: {aggregate.note}" if aggregate.is_share else aggregate.note
        }
    cluster = cluster_codes(part["cluster"])
    low, high = interval(aggregate.drawn(cluster, resample), value=value)
    how = "bootstrap over images" if int(cluster.max()) + 1 < cluster.size else "bootstrap"
    return result | {"ci_low": low, "ci_high": high, "note": f"{aggregate.note}; {how}"}


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
        low, high = interval(drawn[:, 0] / drawn[:, 1], value=mean)
        note.append("bootstrap over images" if not single else "bootstrap")
    lower = lower_is_better(metric)
    in_unit = not lower and bool((value >= 0).all() and (value <= 1).all())
    if lower:
        note.append("lower is better; mean over the answers that have it")
    elif not in_unit:
        note.append("values leave 0..1: no share, and right or wrong for none")
    wrong = mean * n / asked if in_unit else math.nan
    result = {"value": mean, "ci_low": low, "ci_high": high, "n": n, "n_missing": missing}
    return result | {"value_missing_wrong": wrong, "note": "; ".join(note)}

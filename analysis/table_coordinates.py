"""Table `coordinates`: the ladder from answered to within 50 km, scored again from target and answer."""

from __future__ import annotations

__all__ = ["coordinate_rows", "coordinates", "locate"]

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis._computed_scores import is_coordinate_task, with_places
from vlm_backbones.analysis._sample_frame import where
from vlm_backbones.analysis.bootstrap import cluster_sums, cluster_weights, level_totals, pattern_bootstrap, wilson
from vlm_backbones.analysis.columns import build_table
from vlm_backbones.analysis.interval_rows import SAMPLE_DRAWS, IntervalRow, interval_rows
from vlm_backbones.analysis.pairing import cluster_codes
from vlm_backbones.analysis.task_runs import by_task, runs_of

Floats = NDArray[np.float64]

_LEVELS = 1000
_QUANTILES = {"median_error_km": 0.5, "p90_error_km": 0.9}
_RATES = [
    "answered",
    "parsed",
    "schema",
    "in_range",
    "within_1000_km",
    "within_250_km",
    "within_100_km",
    "within_50_km",
    "swapped",
    "sign_flipped",
]


def coordinate_rows(part: pl.DataFrame) -> list[dict[str, Any]]:
    """Rungs of every answer, of targets that are places: the keys of `vlm_backbones.scoring.coordinate_rungs`."""
    from vlm_backbones.scoring import coordinate_rungs

    return [
        dict(coordinate_rungs(answer or "", target)) for answer, target in part.select("answer", "target").iter_rows()
    ]


def coordinates(samples: pl.DataFrame, *, condition: str = "clean") -> pl.DataFrame:
    """Score every coordinates task from target and answer, so that any model's log can be read.

    Returns
    -------
    polars.DataFrame
        Shares over all questions logged whose target is a place; median and 90th percentile of the error in km over
        the parsed answers.
    """
    return locate(samples, condition=condition, bootstrap=0)[0]


def locate(
    samples: pl.DataFrame, *, condition: str = "clean", bootstrap: int = 10_000, seed: int = 0
) -> tuple[pl.DataFrame, list[IntervalRow]]:
    """The table `coordinates`, and the rows of `intervals` for it; none with `bootstrap` 0."""
    rows: list[dict[str, Any]] = []
    ranges: list[IntervalRow] = []
    for task, part in by_task(samples, condition):
        if not is_coordinate_task(part["target"]):
            continue
        asked, known = part["doc_id"].n_unique(), with_places(part)
        for run in runs_of(known):
            of_run = where(known, run=run)
            scored = coordinate_rows(of_run)
            error = np.array([row["error_km"] if row["parsed"] else math.nan for row in scored], dtype=float)
            rates = np.array([[bool(rungs[name]) for name in _RATES] for rungs in scored], dtype=float)
            counts = {"n": len(scored), "n_missing": asked - len(scored)}
            values = dict(zip(_RATES, rates.mean(axis=0).tolist(), strict=True)) | _quantiles(error)
            rows.append({"run": run, "task": task, **counts, **values})
            if bootstrap:
                place = {"table": "coordinates", "task": task, "runs": run}
                cluster = cluster_codes(of_run["cluster"])
                is_alone = int(cluster.max(initial=-1)) + 1 == cluster.size
                drawn = _drawn(rates, error, cluster, bootstrap, seed)
                found = interval_rows(place, values, drawn, counts)
                ranges += _as_shares(found) if is_alone else found
    return build_table("coordinates", rows), ranges


def _as_shares(rows: Iterable[IntervalRow]) -> Iterator[IntervalRow]:
    """With Wilson's interval for the rates, as in `scores`: no share of images is exactly 0 or 1."""
    for row in rows:
        n = row["n"]
        ends = wilson(row["value"] * n, n) if row["measure"] in _RATES else (row["ci_low"], row["ci_high"])
        yield row | dict(zip(("ci_low", "ci_high"), ends, strict=True))


def _quantiles(error_km: Floats) -> dict[str, float]:
    """Of the answers that have an error."""
    known = error_km[~np.isnan(error_km)]
    return {name: float(np.quantile(known, share)) if known.size else math.nan for name, share in _QUANTILES.items()}


def _drawn(rates: Floats, error_km: Floats, cluster: NDArray[np.int64], draws: int, seed: int) -> dict[str, Floats]:
    """Draws over clusters of the rates, and at most 1,000 of the quantiles: measure -> (draws,)."""
    sums = cluster_sums(np.column_stack([rates, np.ones(len(rates))]), cluster)
    totals = pattern_bootstrap(sums, draws, np.random.default_rng(seed))
    drawn = dict(zip(_RATES, (totals[:, :-1] / totals[:, -1:]).T, strict=True))
    weights, group = cluster_weights(cluster, min(draws, SAMPLE_DRAWS), np.random.default_rng(seed))
    known = ~np.isnan(error_km)
    if not known.any():
        return drawn
    # ranks on a grid of 1,000: the cost does not grow with the answers
    levels = np.unique(np.quantile(error_km[known], np.linspace(0, 1, _LEVELS), method="inverted_cdf"))
    place = np.searchsorted(levels, error_km[known])
    reached = np.cumsum(level_totals(weights, group[known], place, np.ones(place.size)), axis=1)
    for name, share in _QUANTILES.items():
        drawn[name] = levels[np.argmax(reached >= share * reached[:, -1:], axis=1)]
    return drawn

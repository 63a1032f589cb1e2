"""Table `coordinates`: the ladder from answered to within 50 km, scored again from target and answer."""

from __future__ import annotations

__all__ = ["coordinate_rows", "coordinates", "is_coordinate_target"]

import math
from typing import Any

import numpy as np
import polars as pl

from vlm_backbones.analysis._computed_scores import is_coordinate_target
from vlm_backbones.analysis.columns import build_table
from vlm_backbones.analysis.table_agreement import by_task, runs_of

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
    """Rungs of every answer of a coordinates task: the keys of `vlm_backbones.scoring.coordinate_rungs`."""
    from vlm_backbones.scoring import coordinate_rungs

    return [
        dict(coordinate_rungs(answer or "", target)) for answer, target in part.select("answer", "target").iter_rows()
    ]


def coordinates(samples: pl.DataFrame, *, condition: str = "clean") -> pl.DataFrame:
    """Score every coordinates task from target and answer, so that any model's log can be read.

    Returns
    -------
    polars.DataFrame
        Shares over all questions logged; median and 90th percentile of the error in km over the parsed answers.
    """
    rows: list[dict[str, Any]] = []
    for task, part in by_task(samples, condition):
        if not is_coordinate_target(part["target"][0]):
            continue
        asked = part["doc_id"].n_unique()
        for run in runs_of(part):
            scored = coordinate_rows(part.filter(pl.col("run") == run))
            error = np.array([row["error_km"] for row in scored if row["parsed"]], dtype=float)
            row: dict[str, Any] = {"run": run, "task": task, "n": len(scored), "n_missing": asked - len(scored)}
            row |= {name: float(np.mean([bool(rungs[name]) for rungs in scored])) for name in _RATES}
            row["median_error_km"] = float(np.median(error)) if error.size else math.nan
            row["p90_error_km"] = float(np.quantile(error, 0.9)) if error.size else math.nan
            rows.append(row)
    return build_table("coordinates", rows)

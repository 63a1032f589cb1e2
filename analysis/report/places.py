"""Where the answers of a coordinates task fall: one row an answer, and the curves of their errors."""

from __future__ import annotations

__all__ = ["error_groups", "error_shares", "read_places"]

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis._computed_scores import with_places
from vlm_backbones.analysis.error_curves import errors_by_confidence, share_within, share_within_band
from vlm_backbones.analysis.table_coordinates import coordinate_rows

_DRAWS = 500
_LIMITS_KM = np.unique(np.concatenate([np.geomspace(1, 20_015, 90), [50, 100, 250, 1000]]))
_PLACE = {
    "run": pl.String,
    "task": pl.String,
    "doc_id": pl.String,
    "frame": pl.String,
    "cluster": pl.String,
    "latitude": pl.Float64,
    "longitude": pl.Float64,
    "answer_latitude": pl.Float64,
    "answer_longitude": pl.Float64,
    "error_km": pl.Float64,
    "swapped": pl.Boolean,
    "sign_flipped": pl.Boolean,
    "confidence": pl.Float64,
    "confidence_kind": pl.String,
}


def read_places(part: pl.DataFrame, runs: Sequence[str]) -> pl.DataFrame:
    """True and answered place of every question of one task, by run; nulls where the answer has no coordinates."""
    from vlm_backbones.scoring import parse_coordinates

    rows: list[dict[str, Any]] = []
    for run in runs:
        of_run = with_places(part.filter(pl.col("run") == run))
        for sample, rungs in zip(of_run.iter_rows(named=True), coordinate_rows(of_run), strict=True):
            truth, answer = parse_coordinates(sample["target"]), parse_coordinates(sample["answer"] or "")
            row = {name: sample.get(name) for name in _PLACE}
            row |= {"error_km": rungs["error_km"], "swapped": rungs["swapped"], "sign_flipped": rungs["sign_flipped"]}
            if truth is not None:
                row |= {"latitude": truth.latitude, "longitude": truth.longitude}
            if answer is not None:
                row |= {"answer_latitude": answer.latitude, "answer_longitude": answer.longitude}
            rows.append(row)
    return pl.DataFrame(rows, schema=_PLACE, strict=False)


def error_shares(places: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Share of all questions whose answer lies within each distance, with a band over clusters."""
    rows: list[dict[str, Any]] = []
    for run, part in _by_run(places):
        error, cluster = part["error_km"].to_numpy(), _codes(part)
        low, high = share_within_band(error, cluster, _LIMITS_KM, _DRAWS, np.random.default_rng(seed))
        for km, share, below, above in zip(_LIMITS_KM, share_within(error, _LIMITS_KM), low, high, strict=True):
            place = {"run": run, "task": part["task"][0], "km": km}
            counts = {"n": part.height, "n_missing": places["doc_id"].n_unique() - part.height}
            rows.append(place | {"share": share, "share_low": below, "share_high": above} | counts)
    return pl.DataFrame(rows)


def error_groups(places: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Median error in five groups of confidence, by run; answers without confidence or coordinates count as missing."""
    rows: list[dict[str, Any]] = []
    for run, part in _by_run(places):
        known = part.filter(pl.col("confidence").is_not_null() & pl.col("error_km").is_not_nan())
        c, error = known["confidence"].to_numpy(), known["error_km"].to_numpy()
        for group in errors_by_confidence(c, error, _codes(known), _DRAWS, np.random.default_rng(seed)):
            place = {"run": run, "task": part["task"][0], "confidence": group.confidence, "error_km": group.median_km}
            counts = {"n": group.n, "n_missing": part.height - known.height}
            rows.append(place | {"low_km": group.low_km, "high_km": group.high_km} | counts)
    return pl.DataFrame(rows)


def _by_run(places: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    for key, part in places.group_by("run", maintain_order=True):
        yield str(key[0]), part


def _codes(part: pl.DataFrame) -> NDArray[np.int64]:
    return part["cluster"].rank("dense").cast(pl.Int64).to_numpy() - 1

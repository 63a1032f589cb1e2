"""All tables of a set of logs, in the order in which the report reads them."""

from __future__ import annotations

__all__ = ["build_tables"]

import polars as pl

from vlm_backbones.analysis.samples import Logs
from vlm_backbones.analysis.table_agreement import agreement, agreement_all, solved_by
from vlm_backbones.analysis.table_calibration import calibration, calibration_pairs, reliability
from vlm_backbones.analysis.table_coordinates import coordinates
from vlm_backbones.analysis.table_scores import scores


def build_tables(logs: Logs, *, bootstrap: int = 10_000, seed: int = 0) -> dict[str, pl.DataFrame]:
    """Compute every table, name -> frame, with the columns of `columns.TABLES`."""
    samples = logs.samples
    return {
        "scores": scores(logs, bootstrap=bootstrap, seed=seed),
        "agreement": agreement(samples, bootstrap=bootstrap, seed=seed),
        "agreement_all": agreement_all(samples, seed=seed),
        "solved_by": solved_by(samples),
        "calibration": calibration(samples, seed=seed),
        "calibration_pairs": calibration_pairs(samples, bootstrap=bootstrap, seed=seed),
        "reliability": reliability(samples),
        "coordinates": coordinates(samples),
    }

"""The columns of every table, declared once."""

from __future__ import annotations

__all__ = ["TABLES", "build_table", "write_tables"]

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from vlm_backbones.cache import staged_path

_TEXT = frozenset(
    [
        "table",
        "run",
        "backbone",
        "backbone_a",
        "backbone_b",
        "task",
        "condition",
        "metric",
        "note",
        "run_a",
        "run_b",
        "test",
        "runs",
        "runs_right",
        "question_type",
        "confidence_kind",
        "measure",
        "token_type",
        "target",
        "claim",
        "source",
        "verdict",
        "rule",
    ]
)
_WHOLE = frozenset(
    [
        "seed",
        "seeds_a",
        "seeds_b",
        "n",
        "n_missing",
        "n11",
        "n10",
        "n01",
        "n00",
        "count",
        "bin",
        "layer",
        "layer_a",
        "layer_b",
    ]
)

TABLES: dict[str, tuple[str, ...]] = {
    name: tuple(columns.split())
    for name, columns in {
        "scores": "run backbone seed task condition metric value ci_low ci_high n n_missing value_missing_wrong note",
        "agreement": (
            "task run_a run_b n n_missing n11 n10 n01 n00 phi phi_low phi_high phi_min phi_max kappa phi_scaled "
            "phi_ceiling threshold jaccard_solved jaccard_failed union_accuracy intersection_accuracy oracle_gain "
            "negative_flip_rate positive_flip_rate mcnemar_p test p p_holm q_bh design_effect yule_q same_answer_rate "
            "answer_kappa same_wrong_rate capa diff diff_low diff_high note"
        ),
        "seeds": (
            "task backbone_a backbone_b seeds_a seeds_b n n_missing diff diff_low diff_high seed_sd_a seed_sd_b df p "
            "p_holm note"
        ),
        "agreement_all": (
            "task runs n n_missing krippendorff_alpha fleiss_kappa cochran_q cochran_p oracle_accuracy note"
        ),
        "solved_by": "task runs_right count",
        "intervals": "table task runs question_type measure value ci_low ci_high n n_missing",
        "calibration": (
            "run task question_type confidence_kind n n_missing accuracy mean_confidence overconfidence ece "
            "ece_debiased calibration_p ece_mass mce rmsce smece brier nll auroc aurc e_aurc selective_25 selective_50 "
            "selective_75 temperature ece_heldout_before ece_heldout_after nll_heldout_before nll_heldout_after note"
        ),
        "calibration_pairs": "task run_a run_b measure diff diff_low diff_high n n_missing note",
        "reliability": "run task bin low high n n_missing confidence accuracy",
        "coordinates": (
            "run task n n_missing answered parsed schema in_range within_1000_km within_250_km within_100_km "
            "within_50_km median_error_km p90_error_km swapped sign_flipped"
        ),
        "similarity": "task run_a layer_a run_b layer_b token_type cka cka_debiased n n_missing",
        "probes": (
            "run task layer token_type target score ci_low ci_high permuted random_weights text_only selectivity n "
            "n_missing"
        ),
        "stability": "run task layer token_type condition stability ci_low ci_high answer_flip_rate n n_missing",
        "claims": "claim source verdict value ci_low ci_high p p_holm n n_missing rule note",
    }.items()
}


def build_table(name: str, rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Return the rows as a frame with exactly the table's columns; a column that a row lacks is null."""
    schema: dict[str, Any] = {}
    for column in TABLES[name]:
        schema[column] = pl.String if column in _TEXT else pl.Int64 if column in _WHOLE else pl.Float64
    return pl.DataFrame([{column: row.get(column) for column in schema} for row in rows], schema=schema, strict=False)


def write_tables(tables: Mapping[str, pl.DataFrame], folder: Path) -> None:
    """Write each table as CSV and parquet into the folder."""
    for name, table in tables.items():
        with staged_path(folder / f"{name}.csv") as staged:
            table.write_csv(staged)
        with staged_path(folder / f"{name}.parquet") as staged:
            table.write_parquet(staged)

"""All tables of a set of logs and states, in the order in which the report reads them."""

from __future__ import annotations

__all__ = ["build_tables"]

from collections.abc import Sequence

import polars as pl

from vlm_backbones.analysis.columns import build_table
from vlm_backbones.analysis.samples import Logs
from vlm_backbones.analysis.states import find_states
from vlm_backbones.analysis.table_agreement import compare_all_runs, compare_runs, solved_by
from vlm_backbones.analysis.table_calibration import calibrate, calibration_pairs, reliability
from vlm_backbones.analysis.table_claims import claims
from vlm_backbones.analysis.table_coordinates import locate
from vlm_backbones.analysis.table_probes import probe
from vlm_backbones.analysis.table_scores import scores
from vlm_backbones.analysis.table_seeds import seeds
from vlm_backbones.analysis.table_similarity import similarity
from vlm_backbones.analysis.table_stability import stability


def build_tables(
    logs: Logs,
    *,
    backbones: Sequence[str] = (),
    probe_targets: Sequence[str] | None = None,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> dict[str, pl.DataFrame]:
    """Compute every table, name -> frame, with the columns of `columns.TABLES`.

    Parameters
    ----------
    backbones : the study's, oldest generation first, for the claims; none are judged without them.
    probe_targets : what probes predict; default: all targets of the samples.
    """
    samples = logs.samples
    states = find_states(logs.runs, samples["task"].unique(maintain_order=True).to_list())
    pairs, ranges = compare_runs(logs.clean, bootstrap=bootstrap, seed=seed)
    together, of_all = compare_all_runs(logs.clean, bootstrap=bootstrap, seed=seed)
    calibrated, of_runs = calibrate(samples, draws=bootstrap, seed=seed)
    located, of_answers = locate(samples, bootstrap=bootstrap, seed=seed)
    return {
        "scores": scores(logs, bootstrap=bootstrap, seed=seed),
        "seeds": seeds(logs),
        "agreement": pairs,
        "agreement_all": together,
        "intervals": build_table("intervals", [*ranges, *of_all, *of_runs, *of_answers]),
        "solved_by": solved_by(logs.clean),
        "calibration": calibrated,
        "calibration_pairs": calibration_pairs(logs.clean, bootstrap=bootstrap, seed=seed),
        "reliability": reliability(samples),
        "coordinates": located,
        "similarity": similarity(states),
        "probes": probe(samples, states, targets=probe_targets, seed=seed),
        "stability": stability(samples, states, seed=seed),
        "claims": claims(logs, states, backbones, bootstrap=bootstrap, seed=seed),
    }

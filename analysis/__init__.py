"""Logs of samples in, tables and one offline report out; no torch, no lmms-eval.

Import from outside: `analyze`, `read_samples`, `agreement`, `calibration`, `coordinates`, `find_states`, `similarity`,
`probe`, `stability`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm_backbones.analysis.pipeline import analyze
    from vlm_backbones.analysis.samples import read_samples
    from vlm_backbones.analysis.states import find_states
    from vlm_backbones.analysis.table_agreement import agreement
    from vlm_backbones.analysis.table_calibration import calibration
    from vlm_backbones.analysis.table_coordinates import coordinates
    from vlm_backbones.analysis.table_probes import probe
    from vlm_backbones.analysis.table_similarity import similarity
    from vlm_backbones.analysis.table_stability import stability

__all__ = [
    "agreement",
    "analyze",
    "calibration",
    "coordinates",
    "find_states",
    "probe",
    "read_samples",
    "similarity",
    "stability",
]

# Resolved on first use: polars and scipy take longer to import than `--help` may take.
_HOME = {
    "agreement": "table_agreement",
    "analyze": "pipeline",
    "calibration": "table_calibration",
    "coordinates": "table_coordinates",
    "find_states": "states",
    "probe": "table_probes",
    "read_samples": "samples",
    "similarity": "table_similarity",
    "stability": "table_stability",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

"""Run: one training of a study, by its backbone, its seed and, under a sweep, its learning rate. No torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from vlm_backbones._registry import split_revision

__all__ = ["TAKEN_NAMES", "Run", "slug"]

TAKEN_NAMES = frozenset(
    {"align", "charts", "checkpoint", "features", "finetune", "jobs", "logs", "media", "report_data", "runs", "stages"}
    | {"states", "sweep", "tables", "analyze.log", "certificate.json", "check.log", "data.log", "features.log"}
    | {"leave_out.txt", "progress.json", "report.html", "study.yaml", "verdict.txt"}
)
"""What a study or a run keeps in its own folder: a run of such a name would be mixed with it."""


class Run(NamedTuple):
    """One training of a study."""

    backbone: str
    seed: int = 0
    learning_rate: float | None = None
    """Of a sweep's trial; None for every other run."""
    is_best: bool = False
    """Trained at the learning rate that the sweep chose for its backbone."""

    @property
    def name(self) -> str:
        """The folder under the study's: BACKBONE[-seedN][-best], a trial's `sweep/BACKBONE-lrRATE`."""
        if self.learning_rate is not None:
            return f"sweep/{slug(self.backbone)}-lr{self.learning_rate:g}"
        return slug(self.backbone) + (f"-seed{self.seed}" if self.seed else "") + ("-best" if self.is_best else "")


def slug(backbone: str) -> str:
    """Return a backbone's id, or the last part of its path, as a folder's name."""
    base, revision = split_revision(backbone)
    if revision and "/" not in base:  # of a commit's 40 digits the first seven tell it apart
        backbone = f"{base}-{revision[:7] if re.fullmatch('[0-9a-f]{40}', revision) else revision}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(backbone).name).strip("-.") or "backbone"

"""What a study's sweep tried and chose, read for the page; most studies have none."""

from __future__ import annotations

__all__ = ["read_sweep"]

import json
from pathlib import Path
from typing import Any

from vlm_backbones.errors import DataError


def read_sweep(study_dir: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Return run name of the backbone -> its trials: learning_rate, score, ci_low, ci_high, n, n_missing, is_chosen.

    Raises
    ------
    DataError
        If a file is not what the sweep wrote.
    """
    found = {}
    for file in sorted((study_dir / "sweep").glob("*.json")) if study_dir else ():
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            chosen = content["learning_rate"]
            trials = [row | {"is_chosen": row["learning_rate"] == chosen} for row in content["trials"]]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file} is not a sweep's choice ({error}). Delete it and run the study again.") from error
        found[file.stem] = sorted(trials, key=lambda row: row["learning_rate"])
    return found

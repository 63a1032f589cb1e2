"""What a sweep chose: a file a backbone, written by the analysis of its trials and read by training and report."""

from __future__ import annotations

import json
from pathlib import Path

from vlm_backbones.errors import DataError
from vlm_backbones.run import slug

__all__ = ["choice_file", "read_choice"]


def choice_file(out: Path, backbone: str) -> Path:
    """Return where a study's folder says which learning rate a backbone's trials chose."""
    return out / "sweep" / f"{slug(backbone)}.json"


def read_choice(out: Path, backbone: str) -> float:
    """Return the learning rate that a backbone's trials chose.

    Raises
    ------
    DataError
        Where the sweep has not ended, or its file is damaged.
    """
    file = choice_file(out, backbone)
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))["learning_rate"])
    except OSError as error:
        raise DataError(f"{file} does not exist: the sweep of {backbone} has not ended. Run the study.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} holds no learning_rate ({error}). Delete it and run the study again.") from error

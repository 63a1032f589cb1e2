"""Published numbers of real models, where the logs are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlm_backbones.analysis.samples import read_samples
from vlm_backbones.analysis.table_calibration import calibration

FOLDER = os.environ.get("VLM_BACKBONES_REAL_LOGS")
pytestmark = pytest.mark.skipif(not FOLDER, reason="VLM_BACKBONES_REAL_LOGS names no folder of real logs")


def test_published_accuracy_and_ece_are_reproduced() -> None:
    table = calibration(read_samples([Path(str(FOLDER))], cluster_key="question_id%1000000")).filter(
        question_type="all"
    )
    assert [round(100 * value, 2) for value in table["accuracy"]] == [74.11, 69.23, 67.26]
    assert [round(value, 4) for value in table["ece"]] == [0.0428, 0.0405, 0.0178]

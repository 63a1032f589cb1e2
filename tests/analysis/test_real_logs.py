"""Published numbers of real models, from the example's logs."""

from __future__ import annotations

from pathlib import Path

from vlm_backbones.analysis.samples import read_samples
from vlm_backbones.analysis.table_calibration import calibration

EXAMPLE = Path(__file__).parents[2] / "examples" / "real_backbones"


def test_published_accuracy_and_ece_are_reproduced() -> None:
    table = calibration(read_samples([EXAMPLE], cluster_key="question_id%1000000")).filter(question_type="all")
    assert [round(100 * value, 2) for value in table["accuracy"]] == [74.11, 69.23, 67.26]
    assert [round(value, 4) for value in table["ece"]] == [0.0428, 0.0405, 0.0178]

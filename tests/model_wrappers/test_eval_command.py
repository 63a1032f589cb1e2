"""`vlm-backbones eval` ends with the scores, and lmms-eval's results hold metrics alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlm_backbones.cli import app


@pytest.mark.usefixtures("environment")
def test_the_scores_with_interval_and_n_and_the_samples_folder_are_printed(checkpoint: Path, tmp_path: Path) -> None:
    command = ["eval", str(checkpoint), "--tasks", "vqa_scene,seismic_coords", "--limit", "6", "--out", str(tmp_path)]
    for condition in ("clean", "swap"):
        done = CliRunner().invoke(app, [*command, "--condition", condition])
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[-1] == str(tmp_path / "logs" / condition)
        row = rf"^vqa_scene +vqa_accuracy +{condition} +\d\.\d{{3}} \[\d\.\d{{3}}, \d\.\d{{3}}\] +6 *$"
        assert re.search(row, done.stdout, re.MULTILINE), done.stdout
        assert re.search(rf"^seismic_coords +within_100_km +{condition} ", done.stdout, re.MULTILINE)
    assert " clean " not in done.stdout  # what was evaluated before is not shown again
    for path in (tmp_path / "logs").rglob("*_results.json"):
        for metrics in json.loads(path.read_text())["results"].values():
            assert [name for name in metrics if name.startswith("backbones")] == []

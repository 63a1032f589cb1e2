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
        for task, metric in (("vqa_scene", "vqa_accuracy"), ("seismic_coords", "within_100_km")):
            row = (
                rf"^{task}, {condition} +score \[95 %\] +n *\n{metric} +\d\.\d{{3}} \[\d\.\d{{3}}, \d\.\d{{3}}\] +6 *$"
            )
            assert re.search(row, done.stdout, re.MULTILINE), done.stdout
    assert ", clean " not in done.stdout  # what was evaluated before is not shown again
    for path in (tmp_path / "logs").rglob("*_results.json"):
        for metrics in json.loads(path.read_text())["results"].values():
            assert [name for name in metrics if name.startswith("backbones")] == []


@pytest.mark.usefixtures("environment")
def test_a_condition_that_no_task_has_prints_no_scores(checkpoint: Path, tmp_path: Path) -> None:
    command = ["eval", str(checkpoint), "--tasks", "seismic_coords", "--condition", "paraphrase", "--limit", "2"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "has no second wording, skipped" in done.stdout
    assert "within_100_km" not in done.stdout

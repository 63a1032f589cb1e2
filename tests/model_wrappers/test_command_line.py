"""A bare `lmms-eval` says in one message what the user can mend and exits with 2; Python sees the exception."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lmms_eval import evaluator
from lmms_eval.tasks import TaskManager

from vlm_backbones.errors import CheckpointError, DataError, user_error


def lmms_eval(*launcher: str, checkpoint: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *launcher, "lmms_eval", "--model", "backbone_vlm", "--tasks", "seismic_coords"]
    command += ["--model_args", f"pretrained={checkpoint},device=cpu", "--limit", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=180)


@pytest.mark.usefixtures("environment")
def test_an_error_of_ours_is_one_message_and_exit_code_2(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_BACKBONES_DATA", str(checkpoint))  # lmms-eval wraps what a YAML's !function raises
    done = lmms_eval(checkpoint=checkpoint)
    assert done.returncode == 2, done.stderr
    assert "error: no dataset of task 'seismic_coords'" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.usefixtures("environment")
def test_torchrun_fails_where_its_processes_do(tmp_path: Path) -> None:
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")
    done = lmms_eval(*launcher, checkpoint=tmp_path / "nowhere")
    assert done.returncode == 1  # torchrun's own
    assert "error: no checkpoint in" in done.stderr
    assert "CheckpointError" not in done.stderr


@pytest.mark.usefixtures("environment")
def test_python_sees_the_exception_even_with_the_command_line_loaded(tmp_path: Path) -> None:
    import lmms_eval.__main__ as command_line

    manager = TaskManager("ERROR", include_defaults=False)
    asked = {"model": "backbone_vlm", "model_args": f"pretrained={tmp_path}", "tasks": ["vqa_scene"]}
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        evaluator.simple_evaluate(**asked, task_manager=manager)
    with pytest.raises(SystemExit) as ended:
        command_line.evaluator.simple_evaluate(**asked, task_manager=manager)
    assert ended.value.code == 2
    with pytest.raises(CheckpointError):
        command_line.evaluator.simple_evaluate(**asked, task_manager=manager, verbosity="DEBUG")
    assert command_line.evaluator.evaluate is evaluator.evaluate


def test_what_another_library_wrapped_is_found() -> None:
    ours = DataError("a row")
    wrapped = ImportError("failed")
    wrapped.__cause__ = ours
    assert user_error(wrapped) is user_error(ours) is ours
    assert user_error(ValueError("x")) is None

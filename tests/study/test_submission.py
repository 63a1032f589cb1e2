"""A study as cluster jobs: on a real Slurm where one runs (benchmarks/slurm/start.sh), and in the background here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from submitit.core.utils import DelayedSubmission

from vlm_backbones._display import StudyDisplay
from vlm_backbones.errors import ConfigError, DataError
from vlm_backbones.pipeline import plan_study, run_study
from vlm_backbones.study import load_study
from vlm_backbones.submission import _started, job_states, settings_for, submit_study

MINUTES = 10


def is_slurm_up() -> bool:
    return shutil.which("sinfo") is not None and not subprocess.run(["sinfo"], capture_output=True).returncode


needs_slurm = pytest.mark.skipif(not is_slurm_up(), reason="no Slurm runs here: see benchmarks/slurm/start.sh")


def wait_for(is_so: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60 * MINUTES
    while not is_so():
        assert time.monotonic() < deadline, f"{what} did not happen in {MINUTES} minutes"
        time.sleep(0.2)


def status(out: Path) -> str:
    command = [sys.executable, "-m", "vlm_backbones.cli", "study", "status", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def quick(tiny_study: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Overrides that leave the stages and little work; the jobs inherit the environment."""
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return ["analysis.states=false", "analysis.conditions=[swap]", "evaluation.limit=4", "analysis.bootstrap=100"]


INTERRUPTIONS = {
    "requeued": ["scontrol", "requeue"],
    "preempted": ["sbatch", "--partition=urgent", "--exclusive", "--time=1", "--output=/dev/null", "--wrap=true"],
}


@needs_slurm
@pytest.mark.parametrize("how", INTERRUPTIONS)
def test_slurm_runs_the_stages_in_order_and_an_interrupted_training_goes_on(
    tiny_study: Path, quick: list[str], tmp_path: Path, how: str
) -> None:
    study, out = load_study(tiny_study, [*quick, "recipe.finetune.steps=800"]), tmp_path / "out"
    jobs = submit_study(study, out, "slurm", {"time": "20", "cpus_per_task": "1", "comment": "test"})
    assert list(jobs) == ["check", "features", "train tiny-1", "train tiny-2", "eval tiny-1", "eval tiny-2", "analyze"]
    assert jobs["train tiny-2"] == jobs["train tiny-1"].replace("_0", "_1")  # one array
    with pytest.raises(ConfigError, match="still wait or run"):
        submit_study(study, out, "slurm", {})

    checkpoints = out / "tiny-1" / "finetune"
    wait_for(lambda: list(checkpoints.glob("checkpoint-*/seal.json")), "a checkpoint of the training")
    first = jobs["train tiny-1"]
    subprocess.run([*INTERRUPTIONS[how], *([first] if how == "requeued" else [])], check=True)
    show = ["scontrol", "show", "job", first]
    wait_for(lambda: "Restarts=1" in subprocess.run(show, capture_output=True, text=True).stdout, f"{first} {how}")
    wait_for(lambda: not job_states(out), "the end of all jobs")
    log = (out / "jobs" / f"{first}_0_log.out").read_text(encoding="utf-8")
    assert (out / "report.html").is_file(), log
    assert "stages done" in status(out)
    assert "7 of 7" in status(out)
    steps = (out / "tiny-1" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(steps) == len(set(steps))  # no step was written twice
    with pytest.raises(ConfigError, match=r"every stage .* is done"):
        submit_study(study, out, "slurm", {})


@needs_slurm
def test_a_failed_stage_cancels_what_waits_for_it(tiny_study: Path, quick: list[str], tmp_path: Path) -> None:
    rows = [{"id": 0, "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": " "}]}]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    study = load_study(tiny_study, [*quick, f"data.finetune=[{tmp_path / 'rows.json'}]"])
    jobs = submit_study(study, tmp_path / "out", "slurm", {"time": "20", "cpus_per_task": "1"})
    wait_for(lambda: not job_states(tmp_path / "out"), "the end of all jobs")
    log = (tmp_path / "out" / "jobs" / f"{jobs['check']}_0_log.out").read_text(encoding="utf-8")
    assert "rows.json row 0: the answer is empty" in log
    assert not (tmp_path / "out" / "report.html").exists()
    assert "to do" in status(tmp_path / "out")


def test_the_local_executor_runs_the_study_in_the_background_each_training_in_two_processes(
    tiny_study: Path, quick: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    one = f"backbones=[{tiny_study.parent / 'tiny-1'}]"
    jobs = submit_study(load_study(tiny_study, [*quick, one, "training.processes=2"]), out, "local", {})
    assert list(jobs) == ["study"]
    assert "running" in status(out)
    wait_for(lambda: not job_states(out), "the end of the process")  # which this test, its parent, has not collected
    (log,) = (out / "jobs").glob("*_log.err")
    assert (out / "report.html").is_file(), log.read_text(encoding="utf-8")
    assert "5 of 5 stages done" in status(out)
    record = json.loads((out / "tiny-1" / "run.json").read_text())
    assert record["hardware"]["processes"] == 2


@pytest.fixture
def fake_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with Slurm's commands: `sbatch` counts the jobs and refuses the one whose number is in `full`."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    scripts = {
        "sbatch": """
            job=$(($(ls *.job 2>/dev/null | wc -l) + 1))
            if [ "$job" = "$(cat full 2>/dev/null)" ]; then echo "sbatch: error: QOSMaxSubmitJob" >&2; exit 1; fi
            cp "$1" $job.job
            echo "Submitted batch job $job"
        """,
        "squeue": 'for file in *.job; do echo "${file%.job} PENDING"; done',
        "scancel": 'for job in "$@"; do rm $job.job; done',
        "srun": "",
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\ncd {folder}\n{textwrap.dedent(script)}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def test_jobs_that_are_submitted_before_a_refusal_are_cancelled(
    tiny_study: Path, fake_slurm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (fake_slurm / "full").write_text("3", encoding="utf-8")
    study, out = load_study(tiny_study), tmp_path / "out"
    why = (
        r"Slurm refuses train tiny-1, train tiny-2: QOSMaxSubmitJob\. .*--job KEY=VALUE.* and cancelled: check \(1\), f"
    )
    with pytest.raises(ConfigError, match=why):
        submit_study(study, out, "slurm", {})
    assert capfd.readouterr().err == ""  # the error says it, once
    assert not list(fake_slurm.glob("*.job"))
    assert not job_states(out)

    (fake_slurm / "scancel").write_text("#!/bin/sh\necho no controller >&2; exit 1", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"not cancelled \(no controller\): .* Run: scancel 1 2"):
        submit_study(study, out, "slurm", {})
    assert job_states(out) == {"check": "PENDING", "features": "PENDING"}
    with pytest.raises(ConfigError, match="still wait or run"):
        submit_study(study, out, "slurm", {})


def test_every_job_asks_to_be_requeued_and_goes_on_after_many_time_limits(
    tiny_study: Path, fake_slurm: Path, tmp_path: Path
) -> None:
    submit_study(load_study(tiny_study), tmp_path / "out", "slurm", {"time": "1440"})
    scripts = [path.read_text(encoding="utf-8").splitlines() for path in fake_slurm.glob("*.job")]
    assert len(scripts) == 5
    assert all("#SBATCH --requeue" in lines for lines in scripts)
    work = DelayedSubmission.load(tmp_path / "out" / "jobs" / "3_0_submitted.pkl")
    assert work._timeout_countdown > 100
    with pytest.raises(ConfigError, match=r"time=24:00:00: expected minutes"):
        submit_study(load_study(tiny_study), tmp_path / "other", "slurm", {"time": "24:00:00"})


def test_another_process_with_the_number_of_a_local_run_is_not_it(tmp_path: Path) -> None:
    (tmp_path / ".stages").mkdir()
    note = {"executor": "local", "jobs": {"study": str(os.getpid())}, "started": _started(os.getpid())}
    for began, states in ((0, {"study": "RUNNING"}), (-60, {})):
        text = json.dumps(note | {"started": note["started"] + began})
        (tmp_path / ".stages" / "jobs.json").write_text(text, encoding="utf-8")
        assert job_states(tmp_path) == states


def test_a_training_asks_for_its_gpus_and_every_other_job_for_one(tiny_study: Path, tmp_path: Path) -> None:
    stages = plan_study(load_study(tiny_study, ["training.processes=16"]), tmp_path)
    given = {"partition": "gpu", "gpus_per_node": "8"}
    asked = {stage.job.name.partition(" ")[0]: settings_for([stage], given) for stage in stages}
    assert asked["train"] == {"partition": "gpu", "gpus_per_node": "8", "nodes": "2"}
    assert asked["eval"] == asked["check"] == {"partition": "gpu", "gpus_per_node": "1"}
    train = [stage for stage in stages if stage.job.name.startswith("train")]
    assert settings_for(train, {"gpus_per_node": "32"})["gpus_per_node"] == "16"
    assert settings_for(train, {"time": "60"}) == {"time": "60"}  # processes of one machine without GPUs
    with pytest.raises(ConfigError, match="16 cannot be divided over 3 nodes of 6 GPUs"):
        settings_for(train, {"gpus_per_node": "6"})


def test_data_that_is_missing_is_named_once_though_training_and_evaluation_need_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such data: .* Put it there, or name its place") as caught:
        plan_study(load_study("barn"), tmp_path / "out")
    assert str(caught.value).count("playground/data/barn") == 1
    with pytest.raises(DataError, match="no such data"):
        submit_study(load_study("barn"), tmp_path / "out", "local", {})
    assert not (tmp_path / "out").exists()
    with StudyDisplay(Console(quiet=True)) as display, pytest.raises(DataError, match="no such data"):
        run_study(load_study("barn"), tmp_path / "out", display)
    assert not (tmp_path / "out" / "study.yaml").exists()


def test_what_cannot_be_submitted_says_why(tiny_study: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = load_study(tiny_study)
    with pytest.raises(ConfigError, match="unknown executor 'pbs'"):
        submit_study(study, tmp_path, "pbs", {})
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="there is no sbatch here"):
        submit_study(study, tmp_path, "slurm", {})

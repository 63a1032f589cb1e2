"""Stages run in order, share cores, end together, and a failed one shows its log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from vlm_backbones._launch import Nodes, accelerate_config, launch_arguments
from vlm_backbones._scheduler import Job, Running, StageError, cores, run_jobs
from vlm_backbones.errors import ConfigError


class Recorder:
    """Remembers what the scheduler told."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.threads: dict[str, int] = {}
        self.together = 0

    def update(self, waiting: Sequence[Job], running: Sequence[Running], finished: Sequence[str]) -> None:
        self.together = max(self.together, len(running))

    def started(self, running: Running) -> None:
        self.threads[running.job.name] = running.threads

    def ended(self, running: Running, seconds: float) -> None:
        self.order.append(running.job.name)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the children's path with one module, `stage_under_test`, that does what its arguments say."""
    code = """
        import pathlib, signal, sys, time
        from vlm_backbones.errors import DataError
        word, *rest = sys.argv[1:]
        if word == "sleep":
            pathlib.Path(rest[1]).write_text("")
            time.sleep(float(rest[0]))
        if word == "save":
            signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), pathlib.Path(rest[0]).write_text(""), sys.exit()))
            pathlib.Path(rest[1]).write_text("")
            time.sleep(600)
        if word == "mend":
            raise DataError("rows.json row 3: no answer")
        if word == "crash":
            print("last words")
            raise RuntimeError("a defect")
        if word == "touch":
            pathlib.Path(rest[0]).write_text("")
    """
    (tmp_path / "stage_under_test.py").write_text(textwrap.dedent(code), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def job(folder: Path, name: str, *arguments: str, needs: tuple[str, ...] = ()) -> Job:
    return Job(name, "stage_under_test", arguments, folder / f"{name}.log", needs=needs)


def test_a_job_waits_for_what_it_needs(modules: Path) -> None:
    recorder, seconds = Recorder(), dict[str, float]()
    jobs = [
        job(modules, "last", "touch", str(modules / "c"), needs=("first", "second")),
        job(modules, "first", "touch", str(modules / "a")),
        job(modules, "second", "touch", str(modules / "b"), needs=("first", "done before")),
    ]
    run_jobs(jobs, recorder, lambda done, spent: seconds.update({done.name: spent}))
    assert recorder.order == ["first", "second", "last"]
    assert sorted(seconds) == ["first", "last", "second"]
    assert recorder.threads == dict.fromkeys(recorder.threads, cores())


def test_jobs_share_the_cores_and_never_more_run_than_there_are(modules: Path) -> None:
    recorder = Recorder()
    jobs = [job(modules, f"job{i}", "sleep", "0.5", str(modules / f"f{i}")) for i in range(cores() + 1)]
    run_jobs(jobs, recorder, lambda done, spent: None)
    assert recorder.together == cores()
    assert recorder.threads["job0"] == 1


def test_the_last_round_of_equal_jobs_takes_turns_on_the_cores(modules: Path) -> None:
    recorder = Recorder()
    jobs = [
        Job(f"job{i}", "stage_under_test", ("sleep", "0.5", str(modules / f"f{i}")), modules / f"{i}.log", threads=1)
        for i in range(2 * cores() + 1)
    ]
    run_jobs(jobs, recorder, lambda done, spent: None)
    assert cores() < recorder.together <= 2 * cores()
    assert len(recorder.order) == len(jobs)
    assert list(recorder.threads) == [item.name for item in jobs]  # nobody starts before his turn


def test_what_a_user_can_mend_is_told_without_a_traceback(modules: Path) -> None:
    with pytest.raises(StageError) as caught:
        run_jobs([job(modules, "check", "mend")], Recorder(), lambda done, spent: None)
    assert str(caught.value) == "check: rows.json row 3: no answer"


def test_a_defect_shows_the_end_of_the_log_and_ends_the_others(modules: Path) -> None:
    flag = modules / "started"
    jobs = [job(modules, "long", "sleep", "600", str(flag)), job(modules, "bad", "crash")]
    start = time.time()
    with pytest.raises(StageError) as caught:
        run_jobs(jobs, Recorder(), lambda done, spent: None)
    assert time.time() - start < 60
    assert "bad exited with 1" in str(caught.value)
    assert "last words" in str(caught.value)
    assert "RuntimeError: a defect" in str(caught.value)


def start(modules: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a study of one stage, and return it and the stage's process when that has begun."""
    code = f"""
        from pathlib import Path
        from tests_recorder import Recorder
        from vlm_backbones._scheduler import Job, run_jobs
        job = Job("long", "stage_under_test", {arguments!r}, Path({str(modules / "long.log")!r}))
        run_jobs([job], Recorder(), lambda done, spent: None)
    """
    quiet = "class Recorder:\n    update = started = ended = lambda self, *rest: None\n"
    (modules / "tests_recorder.py").write_text(quiet, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    while not (modules / "started").exists():
        time.sleep(0.05)
    (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return parent, int(child)


on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are found in /proc")


@on_linux  # the kernel's parent-death signal is its own, too
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_study_leaves_no_stage_behind(modules: Path, number: signal.Signals) -> None:
    parent, child = start(modules, "sleep", "600", str(modules / "started"))
    os.kill(parent.pid, number)
    parent.wait()
    deadline = time.time() + 10
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.time() < deadline, "the stage outlived its study"
        time.sleep(0.05)


@on_linux
def test_slurms_warning_and_a_second_sigterm_leave_a_stage_its_time_to_save(modules: Path) -> None:
    saved = modules / "saved"
    parent, child = start(modules, "save", str(saved), str(modules / "started"))
    os.kill(child, signal.SIGUSR2)
    os.kill(parent.pid, signal.SIGTERM)
    time.sleep(0.3)
    os.kill(parent.pid, signal.SIGTERM)
    assert parent.wait(30) == 128 + signal.SIGTERM
    assert saved.exists()


def test_more_gpus_than_there_are_is_refused_with_the_number_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    wide = Job("train wide", "stage_under_test", (), tmp_path / "wide.log", uses_gpu=True, processes=8)
    with pytest.raises(ConfigError, match=r"train wide wants 8 GPUs, here are 2: --set training.processes=2"):
        run_jobs([wide], Recorder(), lambda job, seconds: None)


def test_two_machines_start_their_halves_of_one_training(tmp_path: Path) -> None:
    words = launch_arguments(
        "a.module", ["--out", "x"], processes=16, sharding="fsdp2", nodes=Nodes(2, 1, "first", 20_007)
    )
    options = dict(zip(words[:-4:2], words[1:-4:2], strict=True))
    assert options == {
        "--config_file": str(accelerate_config("fsdp2")), "--num_processes": "16", "--num_machines": "2",
        "--machine_rank": "1", "--main_process_ip": "first", "--main_process_port": "20007",
    }  # fmt: skip
    assert words[-4:] == ["-m", "a.module", "--out", "x"]

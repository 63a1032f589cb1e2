"""`study run` and `study status` say which stage of how many, its step and its time left."""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from vlm_backbones import _display
from vlm_backbones._display import StudyDisplay, read_progress
from vlm_backbones._scheduler import Job, Running
from vlm_backbones._status import is_worked_on, stage_states
from vlm_backbones.locks import LOCK
from vlm_backbones.pipeline import study_status
from vlm_backbones.study import Study, load_study


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """The fourth of ten stages at step 120 of 900."""
    progress = tmp_path / "progress.json"
    job = Job("train tiny-1", "x", (), tmp_path / "train.log", progress=progress, place=(4, 10))
    process = subprocess.Popen(["true"])
    item = Running(job, process, threads=1, gpus=(), started=time.time() - 1)
    progress.write_text(json.dumps({"stage": "finetune", "step": 120, "steps": 900, "seconds_left": 200.0}))
    yield item
    process.wait()


def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the display's clock, which starts at 1,000 seconds."""
    now = [1000.0]
    monkeypatch.setattr(_display.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, 1000.0 + seconds)


def test_a_terminal_shows_stage_step_and_time_left_in_80_columns(running: Running) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    waiting = [Job("eval pocket-llama-3-seed2", "x", (), running.job.log, place=(9, 10))]
    with StudyDisplay(console) as display:
        display.update(waiting, [running], [])
        assert display._live is not None
        console.print(display._live.get_renderable())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "8 of 10 stages done, 0:00 so far, at least 3:20 to go" in shown
    rows = [line for line in shown.splitlines() if "4 of 10" in line]
    assert [word in rows[0] for word in ("train tiny-1", "finetune 120/900", "3:20 left")] == [True] * 3
    assert any(
        "9 of 10" in line and "eval pocket-llama-3-seed2" in line and "waiting" in line for line in shown.splitlines()
    )


def test_a_log_has_a_line_for_each_start_and_end_and_few_between(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, set_clock = Console(file=io.StringIO(), force_terminal=False, width=80), clock(monkeypatch)
    with StudyDisplay(console) as display:
        display.started(running)
        for second in range(36_000):  # ten hours, looked at once a second
            set_clock(second)
            display.update([], [running], [])
        display.ended(running, 36_000.0)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].startswith("stage 4 of 10, train tiny-1: started (1 thread; log: ")
    assert lines[1] == "stage 4 of 10, train tiny-1, finetune 120/900, 3:20 left"
    assert lines[-1] == "stage 4 of 10, train tiny-1: finished in 10:00:00"
    assert 10 < len(lines) < 70  # a line a minute at first, then each a tenth of the time so far after the last


def test_what_an_earlier_stage_wrote_is_no_progress(running: Running) -> None:
    assert running.job.progress is not None
    assert read_progress(running.job.progress, time.time() + 60) is None
    running.job.progress.write_text("{")
    assert read_progress(running.job.progress, 0.0) is None


@pytest.fixture
def begun(tiny_study: Path, tmp_path: Path) -> Study:
    """A study that was checked and broke off in its first training."""
    study = load_study(tiny_study)
    (tmp_path / "study.yaml").write_text(study.model_dump_yaml())
    for stage, _ in study_status(study, tmp_path)[:3]:
        stage.job.log.parent.mkdir(parents=True, exist_ok=True)
        stage.job.log.touch()
    row = {"stage": "finetune", "step": 2, "steps": 5, "seconds_left": 90}
    (tmp_path / "tiny-1" / "progress.json").write_text(json.dumps(row))
    return study


def test_status_tells_a_broken_off_stage_from_a_running_one(begun: Study, tmp_path: Path) -> None:
    def third() -> tuple[str, str, str]:
        row = stage_states(begun, tmp_path)[2]
        assert (row.number, row.stage.job.name) == (3, "train tiny-1")
        return row.state, row.step, row.left

    assert third() == ("not finished", "finetune 2/5", "")
    assert not is_worked_on(tmp_path)
    with FileLock(tmp_path / LOCK):
        assert is_worked_on(tmp_path)
        assert third() == ("running", "finetune 2/5", "1:30 left")
    last = stage_states(begun, tmp_path)[-1]
    assert (last.stage.job.name, last.state, last.is_begun) == ("analyze", "to do", False)


def test_an_evaluation_does_not_show_its_trainings_steps(begun: Study, tmp_path: Path) -> None:
    (tmp_path / "tiny-1" / "eval.log").touch()
    (row,) = [row for row in stage_states(begun, tmp_path) if row.stage.job.name == "eval tiny-1"]
    assert (row.state, row.step) == ("not finished", "")


def test_status_can_be_asked_while_a_study_starts(tmp_path: Path, begun: Study) -> None:
    stage_states(begun, tmp_path)
    lock = FileLock(tmp_path / LOCK, timeout=0)
    with lock:
        assert lock.is_locked  # the question left no lock behind


def test_the_whole_studys_time_counts_waiting_stages_of_which_one_has_ended(running: Running) -> None:
    waiting = [Job(name, "x", (), running.job.log) for name in ("train tiny-2", "eval tiny-1", "analyze")]
    assert _display._seconds_to_go(waiting, [running], {}) == 200  # what is left of the running stage alone
    took = {"train": [300.0, 500.0], "check": [9.0]}
    assert _display._seconds_to_go(waiting, [running], took) == 200 + 400
    assert _display._seconds_to_go(waiting, [running, running], took) == (200 + 200 + 400) / 2  # two at a time
    assert _display._seconds_to_go([], [], took) == 0

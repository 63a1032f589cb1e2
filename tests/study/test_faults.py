"""A study that is broken off, or runs where something is missing, ends with the tables of an undisturbed one.

Each fault is the real one. The usual suite tries a sample; `--assurance` kills twenty times, and runs whole studies
where the usual suite only checks one.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from vlm_backbones._scheduler import Job, Running, run_jobs


def stages_of(pid: int) -> list[int]:
    """Return the processes of a study's running stages."""
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for path in listed for child in path.read_text().split())


def started(runs: Any, out: Path, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    with log.open("ab") as stream:
        return subprocess.Popen(runs.command(out), stdout=stream, stderr=stream, env=runs.environment(**environment))


def kill_after(process: subprocess.Popen[bytes], seconds: float, whom: str) -> str | None:
    """Kill the study or one of its stages after some seconds; return what it was doing, None where it ended before."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        stages = stages_of(process.pid)
        doing = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[4:6] for pid in stages]
        victim = stages[-1] if whom == "stage" and stages else process.pid
        os.kill(victim, signal.SIGKILL)
        process.wait(120)
        assert process.returncode != 0
        return ", ".join(b" ".join(words).decode() for words in doing) or "between two stages"
    return None


def test_a_study_killed_at_random_moments_gives_the_same_tables(runs: Any, tmp_path: Path, assurance: bool) -> None:
    """SIGKILL, to the study or to one of its stages, at moments spread evenly over an undisturbed run."""
    rng, wanted = random.Random(0), 20 if assurance else 1
    killed = list[str]()
    while len(killed) < wanted:
        out, log = tmp_path / f"out-{len(killed)}", tmp_path / "log"
        for _ in range(5):  # kills of one study, before it may end
            if len(killed) == wanted:
                break
            doing = kill_after(started(runs, out, log), rng.uniform(2, runs.seconds), rng.choice(["study", "stage"]))
            if doing is None:
                break
            killed.append(doing)
        done = runs.run(out)
        assert done.returncode == 0, done.stdout + done.stderr + log.read_text()
        assert runs.tables(out) == runs.tables(runs.finished)
        assert not [path for path in out.rglob("*") if ".partial" in path.name]
        shutil.rmtree(out)
    print(f"killed {len(killed)} times, while: {'; '.join(killed)}")


@pytest.fixture
def bare_place(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose home is a read-only file system, and whose hub is switched off."""
    home = tmp_path / "home"
    home.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(home)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here: a read-only home is not tried")
    yield {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "HF_HUB_OFFLINE": "1", "VLM_BACKBONES_CACHE": ""}
    subprocess.run(["umount", str(home)], check=True)


def without_network(command: Sequence[str]) -> list[str]:
    """Run a command in a network of its own that has nothing, not even a loopback device that is up."""
    return ["unshare", "--net", *command]


def test_a_read_only_home_and_no_network_are_enough(
    runs: Any, bare_place: dict[str, str], tmp_path: Path, assurance: bool
) -> None:
    if subprocess.run(without_network(["true"]), capture_output=True, check=False).returncode:
        pytest.skip("this user may not take the network away")
    environment = {**runs.environment(), **bare_place}
    environment = {name: value for name, value in environment.items() if value and name != "HF_HOME"}
    check = [
        sys.executable,
        "-m",
        "vlm_backbones.cli",
        "study",
        "check",
        str(runs.study),
        "--out",
        str(tmp_path / "out"),
    ]
    commands = [check, runs.command(tmp_path / "out")] if assurance else [check]
    for command in commands:
        done = subprocess.run(
            without_network(command), env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "certificate.json").is_file()
    if assurance:
        assert "The study is whole" in done.stderr  # its pointer for a bare lmms-eval could not be written
        assert runs.tables(tmp_path / "out") == runs.tables(runs.finished)


class Recorder:
    """Keeps the seconds that the scheduler tells."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def update(self, waiting: Sequence[Job], running: Sequence[Running], finished: Sequence[str]) -> None:
        """Nothing is shown."""

    def started(self, running: Running) -> None:
        """Nothing is shown."""

    def ended(self, running: Running, seconds: float) -> None:
        self.seconds.append(seconds)


def test_seconds_of_a_stage_are_true_though_the_clock_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back by a day and forth by two: network time and daylight saving do less."""
    jumps = iter([0.0, -86_400.0, 172_800.0])
    now, last = time.time, [0.0]

    def jumping() -> float:
        last[0] = next(jumps, last[0])
        return now() + last[0]

    monkeypatch.setattr(time, "time", jumping)
    recorder = Recorder()
    run_jobs([Job("wait", "timeit", ("-n", "1", "pass"), tmp_path / "log")], recorder, lambda job, seconds: None)
    assert 0 < recorder.seconds[0] < 60


JUMPING = """
import pathlib, time
jump, now, now_ns = pathlib.Path({clock!r}), time.time, time.time_ns
time.time = lambda: now() + float(jump.read_text() or 0)
time.time_ns = lambda: now_ns() + int(1e9 * float(jump.read_text() or 0))
"""


def test_a_clock_that_jumps_in_the_middle_changes_no_table(runs: Any, tmp_path: Path, assurance: bool) -> None:
    """The clock of every Python of the study goes back and forth while it runs; files' times stay the system's."""
    if not assurance:
        pytest.skip("a whole study: only with --assurance")
    clock = tmp_path / "clock"
    clock.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(JUMPING.format(clock=str(clock)))
    study = started(runs, tmp_path / "out", tmp_path / "log", PYTHONPATH=str(tmp_path))
    jumps, days = 0, (-400, 0, 3)
    while study.poll() is None:
        clock.write_text(str(86_400 * days[jumps % 3]))
        jumps += 1
        time.sleep(2)
    assert study.returncode == 0, (tmp_path / "log").read_text()
    print(f"the clock jumped {jumps} times, between -400 and +3 days")
    assert jumps > 5
    assert runs.tables(tmp_path / "out") == runs.tables(runs.finished)


def test_two_studies_on_one_cache_are_both_fine(runs: Any, tmp_path: Path, assurance: bool) -> None:
    if not assurance:
        pytest.skip("two whole studies: only with --assurance; tests/pocket tries two builders of the data")
    studies = [started(runs, tmp_path / name, tmp_path / f"{name}.log") for name in ("one", "two")]
    assert [study.wait() for study in studies] == [0, 0]
    for name in ("one", "two"):
        assert runs.tables(tmp_path / name) == runs.tables(runs.finished)


def test_a_disk_that_fills_up_again_and_again(runs: Any, small_disk: Any, assurance: bool) -> None:
    """Features, checkpoints, logs, states and tables are written to a disk that grows a little after each failure."""
    if not assurance:
        pytest.skip("many studies: only with --assurance; tests/train and tests/model_wrappers try each stage")
    out, failures = small_disk.folder / "out", list[str]()
    for kilobytes in (64, 128, 256, 384, 512, 768, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 4096, 8192, 65_536):
        small_disk.grow(kilobytes)
        done = runs.run(out)
        if done.returncode == 0:
            break
        assert done.returncode == 2, done.stdout + done.stderr
        assert "ree space" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        failures.append(done.stderr.strip().splitlines()[-1])
    print(f"the disk was full {len(failures)} times: {failures}")
    assert len(failures) > 5
    assert runs.tables(out) == runs.tables(runs.finished)


def test_the_same_seed_gives_the_same_bits(runs: Any, tmp_path: Path, assurance: bool) -> None:
    """Twice on one machine: weights, samples and tables."""
    if not assurance:
        pytest.skip("another whole study: only with --assurance; tests/train resumes to the same bits")
    done = runs.run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert runs.tables(tmp_path) == runs.tables(runs.finished)
    weights = sorted(path.relative_to(tmp_path) for path in tmp_path.glob("*/checkpoint/*.safetensors"))
    assert len(weights) == 2
    for path in weights:
        assert (tmp_path / path).read_bytes() == (runs.finished / path).read_bytes()

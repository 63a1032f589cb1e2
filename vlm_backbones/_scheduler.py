"""Jobs as subprocesses, side by side where cores allow: order, threads, logs, signals. No torch."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from vlm_backbones._launch import LAUNCHER, SHUTDOWN_SECONDS, Nodes, launch_arguments
from vlm_backbones.cache import disk_is_full
from vlm_backbones.errors import ConfigError, DataError, VlmBackbonesError, writing_remedy
from vlm_backbones.study import Sharding

__all__ = ["Display", "Job", "Running", "StageError", "cores", "gpus", "run_jobs"]

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 60.0  # training saves after its running step
_TAIL_LINES = 15


class StageError(VlmBackbonesError):
    """A stage of a study failed; the message holds the end of its log."""


@dataclass(frozen=True)
class Job:
    """One stage of a study as a command."""

    name: str
    module: str
    arguments: tuple[str, ...]
    log: Path
    needs: tuple[str, ...] = ()
    progress: Path | None = None
    uses_gpu: bool = False
    processes: int = 1
    """In how many it runs, on a GPU each."""
    sharding: Sharding = "none"
    """What they share."""
    threads: int | None = None
    """A fixed number, passed as `--threads N`; else the free cores are shared."""
    environment: tuple[tuple[str, str], ...] = ()
    place: tuple[int, int] = (1, 1)
    """Which of its study's stages it is, from 1, and how many there are."""

    @property
    def title(self) -> str:
        """What people call it: stage 4 of 10, train NAME."""
        number, count = self.place
        return f"stage {number} of {count}, {self.name}"


@dataclass
class Running:
    """A job under way."""

    job: Job
    process: subprocess.Popen[bytes]
    threads: int
    gpus: tuple[str, ...]
    started: float = field(default_factory=time.time)
    since: float = field(default_factory=time.monotonic)
    """The same moment on a clock that nobody sets."""


class Display(Protocol):
    """What the scheduler tells while jobs run."""

    def update(self, waiting: Sequence[Job], running: Sequence[Running], finished: Sequence[str]) -> None:
        """Show the state; called a few times a second."""

    def started(self, running: Running) -> None:
        """Tell that a job began."""

    def ended(self, running: Running, seconds: float) -> None:
        """Tell that a job succeeded."""


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the visible NVIDIA devices without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in {"", "-1"}]
    folder = Path("/proc/driver/nvidia/gpus")
    return [str(index) for index, _ in enumerate(sorted(folder.iterdir()))] if folder.is_dir() else []


def run_jobs(
    jobs: Sequence[Job], display: Display, on_success: Callable[[Job, float], None], nodes: Nodes | None = None
) -> None:
    """Run all jobs in dependency order; earlier jobs of the list go first where several are ready.

    Parameters
    ----------
    jobs
        What is left to do; a need that is not in the list counts as done.
    on_success
        Called in this process after each job that exits with 0, with its seconds.
    nodes
        Where every machine of a group runs the same one job, in processes on all of them.

    Raises
    ------
    ConfigError
        When a job wants more GPUs than there are.
    StageError
        When a job fails: the others are ended and the failing log's last lines are in the message.
    """
    waiting, running, finished = list(jobs), list[Running](), list[str]()
    free_gpus, place = gpus(), nodes or Nodes()
    has_gpu = bool(free_gpus)
    _refuse_too_many(jobs, len(free_gpus), place)
    with _ended_on_exit(running):
        while waiting or running:
            for item in _start_ready(waiting, running, free_gpus, has_gpu, place):
                display.started(item)
            for item in [item for item in running if item.process.poll() is not None]:
                running.remove(item)
                free_gpus.extend(item.gpus)
                if item.process.returncode:
                    raise StageError(_failure(item))
                seconds = time.monotonic() - item.since
                on_success(item.job, seconds)
                finished.append(item.job.name)
                display.ended(item, seconds)
            display.update(waiting, running, finished)
            time.sleep(_POLL_SECONDS)


def _refuse_too_many(jobs: Sequence[Job], found: int, nodes: Nodes) -> None:
    for job in jobs:
        if found and job.uses_gpu and job.processes > found * nodes.count:
            raise ConfigError(
                f"{job.name} wants {job.processes} GPUs, here are {found * nodes.count}: "
                f"--set training.processes={found * nodes.count} (the steps stay the same)."
            )


def _start_ready(
    waiting: list[Job], running: list[Running], free_gpus: list[str], has_gpu: bool, nodes: Nodes
) -> Iterator[Running]:
    """Start what can start now; a lone job gets all free cores, several share them.

    Jobs of fixed threads that are too few for another full round start at once and take turns on the cores:
    three on two cores end after one and a half times one job's time, not two.
    """
    unfinished = {job.name for job in waiting} | {item.job.name for item in running}
    ready = [job for job in waiting if not unfinished.intersection(job.needs)]
    unstarted = len(ready)
    for job in ready:
        free = cores() - sum(item.threads for item in running)
        needed = job.processes // nodes.count if has_gpu and job.uses_gpu else 0
        is_last_round = job.threads is not None and unstarted < cores() <= len(running) < 2 * cores()
        if (free < (job.threads or 1) and running and not is_last_round) or len(free_gpus) < needed:
            continue
        threads = job.threads or max(1, free // min(unstarted, max(free, 1)))
        taken = tuple(free_gpus.pop(0) for _ in range(needed))
        item = Running(job, _start(job, threads, taken, nodes), threads, taken)
        waiting.remove(job)
        running.append(item)
        unstarted -= 1
        yield item


def _start(job: Job, threads: int, devices: tuple[str, ...], nodes: Nodes) -> subprocess.Popen[bytes]:
    environment = dict(os.environ, TOKENIZERS_PARALLELISM="false", PYTHONUNBUFFERED="1", **dict(job.environment))
    processes = job.processes
    threads = max(1, threads * nodes.count // processes)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
        environment[name] = str(threads)
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    module, arguments = job.module, [*job.arguments, *(("--threads", str(threads)) if job.threads else ())]
    if processes > 1:
        environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SHUTDOWN_SECONDS)
        sharding = job.sharding
        arguments = launch_arguments(module, arguments, processes=processes, sharding=sharding, nodes=nodes)
        module = LAUNCHER
    command = [sys.executable, "-m", "vlm_backbones._stage", str(os.getpid()), module, *arguments]
    try:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("wb") as log:
            # a session of its own: Ctrl-C reaches this process only, which then ends its stages in order
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
    except OSError as error:
        raise DataError(f"cannot write {job.log}: {error.strerror or error}. {writing_remedy(error)}") from error


@contextmanager
def _ended_on_exit(running: list[Running]) -> Iterator[None]:
    """End all children however this block is left, SIGTERM included."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    before: Any = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm sends it again, and those who save need this process
        for item in running:
            _signal(item, signal.SIGTERM)
        is_shared = any(item.job.processes > 1 for item in running)
        deadline = time.monotonic() + (SHUTDOWN_SECONDS if is_shared else _GRACE_SECONDS)
        for item in running:
            try:
                item.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(item, signal.SIGKILL)
                item.process.wait()
        signal.signal(signal.SIGTERM, before)


def _signal(item: Running, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it may have ended by itself
        os.killpg(item.process.pid, number)


def _failure(item: Running) -> str:
    code = item.process.returncode
    text = item.job.log.read_text(encoding="utf-8", errors="replace")
    lines = [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    if code == 2 and lines and "error: " in text:
        # the stage already said in one message what the user can mend
        message = text[text.rindex("error: ") + len("error: ") :].strip()
        return f"{item.job.name}: {message}"
    if item.job.processes > 1 and (said_by_one := re.search(r"^error: (.*(?:\n  .*)*)", text, re.MULTILINE)):
        return f"{item.job.name}: {said_by_one.group(1)}"  # the launcher's own report follows it
    why = f"was killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    said = f"exited with {code}" if code > 0 else why
    if disk_is_full(item.job.log):
        return f"{item.job.name} {said}: the disk of {item.job.log} is full. Free space, then run the same command."
    tail = "\n".join(f"  | {line}" for line in lines[-_TAIL_LINES:])
    return f"{item.job.name} {said}. The end of {item.job.log}:\n{tail}\nRun the same command again to continue."

"""How a study's folder stands: which stages are done, which run and how far they are. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlm_backbones._display import read_progress
from vlm_backbones._stage_kinds import Stage
from vlm_backbones.locks import is_held
from vlm_backbones.pipeline import study_status
from vlm_backbones.study import Study
from vlm_backbones.submission import job_states

__all__ = ["StageState", "is_worked_on", "stage_states"]


@dataclass(frozen=True)
class StageState:
    """One stage as `study status` shows it."""

    stage: Stage
    number: int
    state: str
    """done, running, not finished, to do, or the scheduler's word."""
    step: str = ""
    left: str = ""

    @property
    def is_begun(self) -> bool:
        """Whether it has a log and is not done: the log says what it does or why it ended."""
        return self.state != "done" and self.stage.job.log.is_file()


def stage_states(study: Study, out: Path) -> list[StageState]:
    """Return the state of every stage of a study's folder, in the plan's order; writes nothing."""
    jobs, began = job_states(out), _running_since(out)
    rows = enumerate(study_status(study, out), start=1)
    return [_state_of(stage, number, done, jobs, began) for number, (stage, done) in rows]


def is_worked_on(out: Path) -> bool:
    """Whether a process works in a study's folder, or submitted jobs of it wait or run."""
    return _running_since(out) is not None or bool(job_states(out))


def _state_of(stage: Stage, number: int, done: bool, jobs: Mapping[str, str], began: float | None) -> StageState:
    log = stage.job.log
    if done:
        return StageState(stage, number, "done")
    state = jobs.get(stage.job.name, "").lower()
    is_running = began is not None and log.is_file() and log.stat().st_mtime >= began
    state = "running" if is_running else state
    if not log.is_file():
        return StageState(stage, number, state or "to do")
    progress = read_progress(stage.job.progress, began if began and is_running else 0.0)
    is_eval = stage.job.name.startswith("eval ")
    if progress is None or (progress.phase == "eval") != is_eval:  # a run's training and evaluation share the file
        return StageState(stage, number, state or "not finished")
    return StageState(stage, number, state or "not finished", progress.step, progress.left if state else "")


def _running_since(out: Path) -> float | None:
    """Return when the process that works in a study's folder began, as its files' clock tells; None where none does.

    It holds a lock, and has written study.yaml before its first stage.
    """
    return (out / "study.yaml").stat().st_mtime if is_held(out) else None

"""A study's stages as jobs of a cluster with dependencies between them, through submitit. No torch."""

from __future__ import annotations

__all__ = ["EXECUTORS", "job_states", "settings_for", "submit_study"]

import io
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_backbones._display import StudyDisplay
from vlm_backbones._launch import Nodes
from vlm_backbones.cache import atomic_write_text
from vlm_backbones.errors import ConfigError
from vlm_backbones.pipeline import Stage, plan_study, run_stage, run_study, stages_left
from vlm_backbones.study import Study, load_study
from vlm_backbones.trained_runs import refuse_other_training

EXECUTORS = ("slurm", "local")
_WHOLE_STUDY = "study"
_PORTS = range(20_000, 30_000)
"""Where the machines of a job find each other: one by its number, so that jobs on one machine do not meet."""
_TIME_LIMITS = 1_000
"""How often a job that met its time limit goes on: submitit's 3 are four days of `time=1440`, and 7B on one GPU takes
five. A job that fails is not counted here: it ends."""


@dataclass(frozen=True)
class _Work:
    """What a job does: one stage, or the whole study; submitit pickles it, and again where the job is requeued."""

    out: Path
    name: str

    def __call__(self) -> None:
        from rich.console import Console

        study = load_study(self.out / "study.yaml")
        with StudyDisplay(Console(force_terminal=False)) as display:
            if self.name == _WHOLE_STUDY:
                run_study(study, self.out, display)
            else:
                run_stage(study, self.out, self.name, display, _own_place())

    def checkpoint(self) -> Any:
        """Return what a preempted or timed-out job does when it is requeued: the same, which continues."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _own_place() -> Nodes:
    """Return the machines of this job and this one's place; each of them runs its own copy of the work."""
    import submitit

    job = submitit.JobEnvironment()
    if job.num_nodes == 1:
        return Nodes()
    number = int(job.job_id.partition("_")[0])
    return Nodes(job.num_nodes, job.node, job.hostnames[0], _PORTS.start + number % len(_PORTS))


def submit_study(study: Study, out: Path, executor: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Submit what is left of a study and return {stage: job id}.

    On Slurm every stage is a job that waits for those it needs; the trainings are one job array, (backbone, seed)
    a task, and so are the evaluations, each waiting for its own training. The local executor runs the whole study as
    one background process.

    Parameters
    ----------
    executor
        `slurm` or `local`.
    settings
        Of each job, as submitit names them: partition, time (minutes), cpus_per_task, gpus_per_node, mem, account, ...;
        any other sbatch option by its own name. `gpus_per_node` is how many a machine has: a training takes as many as
        the study's `training.processes`, on several machines where one has too few, any other job takes one.

    Raises
    ------
    ConfigError
        If there is nothing left to do, jobs of the study still wait or run, Slurm is not at hand, or a setting is
        refused by Slurm; what was submitted before the refusal is cancelled.
    """
    out = out.expanduser().resolve()
    if executor not in EXECUTORS:
        raise ConfigError(f"unknown executor {executor!r}. Known: {', '.join(EXECUTORS)}.")
    if executor == "slurm" and shutil.which("sbatch") is None:
        raise ConfigError("there is no sbatch here: submit on a Slurm login node, or use --executor local.")
    busy = [f"{name} ({state})" for name, state in job_states(out).items()]
    if busy:
        raise ConfigError(f"jobs of {out} still wait or run: {', '.join(busy)}. Cancel them first, or wait.")
    left = stages_left(plan_study(study, out))
    refuse_other_training(study, out)
    if not left:
        raise ConfigError(f"every stage of {out} is done; its report is {out / 'report.html'}.")
    atomic_write_text(out / "study.yaml", study.model_dump_yaml())
    return _submit_local(out) if executor == "local" else _submit_slurm(study.name, out, left, settings)


def _note(out: Path) -> Path:
    return out / ".stages" / "jobs.json"


def _write_note(out: Path, **facts: Any) -> None:
    atomic_write_text(_note(out), json.dumps(facts, indent=1))


def _submit_local(out: Path) -> dict[str, str]:
    import submitit

    executor = submitit.LocalExecutor(folder=out / "jobs")
    executor.update_parameters(timeout_min=60 * 24 * 30)
    jobs = {_WHOLE_STUDY: str(executor.submit(_Work(out, _WHOLE_STUDY)).job_id)}
    _write_note(out, executor="local", jobs=jobs, started=_started(int(jobs[_WHOLE_STUDY])))
    return jobs


def _submit_slurm(name: str, out: Path, left: Sequence[Stage], settings: Mapping[str, str]) -> dict[str, str]:
    jobs: dict[str, str] = {}
    groups = [(group, settings_for(group, settings)) for group in _groups(left)]
    try:
        for group, own in groups:
            jobs |= _submit_group(_slurm_executor(name, out, _dependency(group, jobs), own), out, group)
            _write_note(out, executor="slurm", jobs=jobs)
    except BaseException as error:
        undone = _cancel(jobs)
        if isinstance(error, ConfigError) and undone:
            raise ConfigError(f"{error} {undone}") from error
        raise
    return jobs


def _submit_group(executor: Any, out: Path, group: Sequence[Stage]) -> dict[str, str]:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    names = [stage.job.name for stage in group]
    try:
        with redirect_stderr(io.StringIO()), executor.batch():  # submitit prints Slurm's words too
            submitted = [executor.submit(_Work(out, name)) for name in names]
    except (FailedJobError, FailedSubmissionError) as error:
        words = "; ".join(line.removeprefix("sbatch: error: ") for line in str(error).splitlines()) or "no reason given"
        raise ConfigError(
            f"Slurm refuses {', '.join(names)}: {words}. Change what the jobs ask for (--job KEY=VALUE), or wait until "
            "your account has room, then submit again."
        ) from error
    return {name: str(job.job_id) for name, job in zip(names, submitted, strict=True)}


def _cancel(jobs: Mapping[str, str]) -> str:
    """Cancel a study's submitted jobs and say so; their note stays, it tells while one of them still ends."""
    if not jobs:
        return ""
    ids = sorted({job.partition("_")[0] for job in jobs.values()})
    told = ", ".join(f"{name} ({job})" for name, job in jobs.items())
    done = subprocess.run(["scancel", *ids], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"Submitted before, and not cancelled ({done.stderr.strip()}): {told}. Run: scancel {' '.join(ids)}"
    return f"Submitted before, and cancelled: {told}."


def settings_for(group: Sequence[Stage], settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a group's jobs: a training as many GPUs as it has processes, any other job one."""
    processes = max(stage.job.processes for stage in group)
    size = int(settings.get("gpus_per_node", processes))
    nodes = int(settings.get("nodes", -(-processes // size))) if processes > 1 else 1
    if processes % nodes or processes // nodes > size:
        raise ConfigError(
            f"training.processes {processes} cannot be divided over {nodes} nodes of {size} GPUs: change one of them."
        )
    own = {"nodes": str(nodes)} if nodes > 1 or "nodes" in settings else {}
    own |= {"gpus_per_node": str(processes // nodes)} if "gpus_per_node" in settings else {}
    return {**settings, **own}


def _groups(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Return the stages with those of one kind together, all trainings and all evaluations, after those they need.

    A sweep trains twice, the second time after its choice: stages of one group need equally many before them.
    """
    depth: dict[str, int] = {}
    groups: dict[tuple[int, str], list[Stage]] = {}
    for stage in stages:
        depth[stage.job.name] = 1 + max((depth.get(name, 0) for name in stage.job.needs), default=0)
        groups.setdefault((depth[stage.job.name], stage.job.name.partition(" ")[0]), []).append(stage)
    return [groups[key] for key in sorted(groups)]


def _dependency(group: Sequence[Stage], jobs: Mapping[str, str]) -> str | None:
    """Return Slurm's `--dependency`: each task of an array on its own task of another where they match."""
    needs = [[jobs[name] for name in stage.job.needs if name in jobs] for stage in group]
    arrays = {job.partition("_")[0] for row in needs for job in row}
    tasks = [row[0].partition("_")[2] for row in needs if len(row) == 1]
    if len(group) > 1 and len(arrays) == 1 and tasks == [str(index) for index in range(len(group))]:
        return f"aftercorr:{arrays.pop()}"
    return "afterok:" + ":".join(sorted(arrays)) if arrays else None


def _slurm_executor(name: str, out: Path, dependency: str | None, settings: Mapping[str, str]) -> Any:
    import submitit
    from submitit.slurm.slurm import _get_default_parameters

    known = _get_default_parameters()
    executor = submitit.SlurmExecutor(folder=out / "jobs", max_num_timeout=_TIME_LIMITS)
    own = {key: _value(value) for key, value in settings.items() if key in known}
    others: dict[str, Any] = {"requeue": True}  # else the cluster's JobRequeue decides
    others |= {key.replace("_", "-"): value for key, value in settings.items() if key not in known}
    if not isinstance(own.get("time", 0), int):
        raise ConfigError(f"--job time={own['time']}: expected minutes, as in time=1440.")
    if dependency is not None:
        own["dependency"] = dependency
        others["kill-on-invalid-dep"] = "yes"
    try:
        executor.update_parameters(job_name=name, stderr_to_stdout=True, additional_parameters=others, **own)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"submitit refuses the settings {dict(settings)} ({error}).") from error
    return executor


def _value(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def job_states(out: Path) -> dict[str, str]:
    """Return {stage: state} of the submitted jobs that still wait or run, in the scheduler's words."""
    try:
        note = json.loads(_note(out).read_text(encoding="utf-8"))
        executor, jobs = str(note["executor"]), dict(note["jobs"])
        started = float(note["started"]) if executor == "local" else 0.0
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if executor == "local":
        now = {name: _started(int(job)) for name, job in jobs.items()}
        return {name: "RUNNING" for name, began in now.items() if began is not None and abs(began - started) < 1}
    if shutil.which("squeue") is None:
        return {}
    states = _queue({job.partition("_")[0] for job in jobs.values()})
    return {name: states[job] for name, job in jobs.items() if job in states}


def _started(pid: int) -> float | None:
    """Return when a process began, in seconds; None where it has ended. Its number alone may be another's by now."""
    import psutil

    try:
        # Linux counts from the boot: psutil adds a clock's time, and clocks are set
        boot = psutil.boot_time() if psutil.LINUX else 0.0
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time() - boot)
    except psutil.Error:
        return None


def _queue(ids: set[str]) -> dict[str, str]:
    """Return {job id: state} from squeue; a task of an array is ID_TASK."""
    command = ["squeue", "--noheader", "--array", "--jobs", ",".join(sorted(ids)), "--format", "%i %T"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # an id that is gone is an error to it
    rows = (line.split() for line in done.stdout.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}

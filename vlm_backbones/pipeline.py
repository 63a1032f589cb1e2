"""A study's stages as subprocesses: what depends on what, what is done, what is left. No torch in this process."""

from __future__ import annotations

__all__ = [
    "Stage",
    "default_out",
    "own_out",
    "plan_study",
    "run_stage",
    "run_study",
    "stages_left",
    "study_status",
]

import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from vlm_backbones._launch import Nodes
from vlm_backbones._names import shipped_studies
from vlm_backbones._plan import plan_study, stages_left
from vlm_backbones._scheduler import Display, Job, run_jobs
from vlm_backbones._stage_kinds import Stage
from vlm_backbones.cache import atomic_write_text, read_last_study, write_last_study
from vlm_backbones.errors import ConfigError, DataError
from vlm_backbones.locks import hold
from vlm_backbones.run import Run
from vlm_backbones.study import Study, load_study
from vlm_backbones.trained_runs import check_trained_runs, refuse_other_training

_SHOWN = 5
"""Names of damaged files in a line."""


def default_out(study: Study) -> Path:
    """Return where a study goes unless told otherwise."""
    return Path("runs") / study.name


def own_out(study: Study, out: Path | None) -> Path:
    """Return the folder for a command that runs one part of a study.

    Raises
    ------
    ConfigError
        If no folder was named and the default one holds a study of another content.
    """
    if out is not None:
        return out.expanduser().resolve()
    folder = default_out(study).resolve()
    stated = folder / "study.yaml"
    if stated.is_file() and stated.read_text(encoding="utf-8") != study.model_dump_yaml():
        raise ConfigError(f"{folder} holds study {study.name} with other values. Name another folder with --out.")
    return folder


def run_study(study: Study, out: Path, display: Display) -> Path:
    """Train, evaluate and analyze; what is done is skipped, what was broken off continues.

    Parameters
    ----------
    out
        The study's folder; one process at a time works in it.

    Returns
    -------
    The report's path.

    Raises
    ------
    ConfigError
        When another process works in the folder.
    StageError
        When a stage fails; finished stages are kept.
    """
    out = out.expanduser().resolve()
    with hold(out):
        stages = plan_study(study, out)
        refuse_other_training(study, out)
        atomic_write_text(out / "study.yaml", study.model_dump_yaml())
        _run_stages(study, out, stages, display)
        _remember(study, out)
    return out / "report.html"


def _run_stages(
    study: Study,
    out: Path,
    stages: Sequence[Stage],
    display: Display,
    names: Collection[str] | None = None,
    nodes: Nodes | None = None,
) -> None:
    """Run what is left of the stages, or what is left of those named, and record each that finished.

    A training that ends is compared with those that ended before, so that an unfair study stops early.
    """
    trainings = {f"train {run.name}": run.name for run in study.runs()}
    by_name = {stage.job.name: stage for stage in stages}

    def succeeded(job: Job, seconds: float) -> None:
        stage = by_name[job.name]
        if nodes is not None and nodes.rank:
            return  # the first machine writes and records
        if stage.damaged:
            raise DataError(f"{job.name} ended without {', '.join(map(str, stage.damaged))}. See {job.log}.")
        if job.name in trainings:
            done = {trainings[other.job.name] for other in stages if other.job.name in trainings and other.is_done}
            check_trained_runs(study, out, {*done, trainings[job.name]})
        stage.write_record(seconds)

    places = {stage.job.name: (number, len(stages)) for number, stage in enumerate(stages, start=1)}
    again = [stage for stage in stages_left(stages) if names is None or stage.job.name in names]
    _tell_of_damage(again)
    left = [stage.job for stage in again]
    run_jobs([replace(job, place=places[job.name]) for job in left], display, succeeded, nodes)


def _tell_of_damage(stages: Sequence[Stage]) -> None:
    """Say why a stage that had ended runs again; a stage's log says what it makes anew."""
    for stage in (stage for stage in stages if stage.has_ended):
        lost = [str(path) for path in stage.lost]
        if lost:
            shown = ", ".join(lost[:_SHOWN]) + (f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else "")
            print(
                f"note: gone, damaged or replaced since {stage.job.name} wrote it, which runs again: {shown}",
                file=sys.stderr,
            )


def run_stage(study: Study, out: Path, name: str, display: Display, nodes: Nodes | None = None) -> None:
    """Run one stage of a study, whose needs are done; nothing where it is done itself.

    Parameters
    ----------
    nodes
        Where several machines run this training together: each of them calls this.

    Raises
    ------
    StageError
        When it fails.
    """
    # it has the machine for itself: all its cores
    stages = [replace(stage, job=replace(stage.job, threads=None)) for stage in plan_study(study, out)]
    if nodes is not None and nodes.rank:
        stages = [replace(stage, job=_with_own_log(stage.job, nodes.rank)) for stage in stages]
    _run_stages(study, out, stages, display, {name}, nodes)
    if name == stages[-1].job.name:
        _remember(study, out)


def _with_own_log(job: Job, rank: int) -> Job:
    return replace(job, log=job.log.with_suffix(f".node{rank}.log"))


def _remember(study: Study, out: Path) -> None:
    """Note the newest checkpoint for a bare `lmms-eval`; a finished study does not fail for want of that note.

    It is said where the checkpoint may not be the expected one: of a study with other values than the shipped one of
    its name, or in place of another study's.
    """
    newest, differs = study.backbones[-1], _differs_from_shipped(study)
    try:
        before = read_last_study()
        write_last_study(out, newest, out / Run(newest, study.seeds[0]).name / "checkpoint", differs)
    except DataError as error:
        print(f"note: {error} The study is whole; lmms-eval needs --model_args pretrained=CHECKPOINT.", file=sys.stderr)
        return
    replaced = before is not None and before["study"] != str(out)
    if differs or replaced:
        print(
            f"note: `lmms-eval --model backbone_vlm` now takes {newest} of {out}"
            + (f" ({differs})" if differs else "")
            + (f"; before: --model_args pretrained={before['checkpoint']}" if before and replaced else ""),
            file=sys.stderr,
        )


def _differs_from_shipped(study: Study) -> str:
    """Return how a study differs from the shipped one of its name, as text; empty where it does not."""
    if study.name not in shipped_studies():
        return ""
    own, shipped = study.model_dump(mode="json"), load_study(study.name).model_dump(mode="json")
    keys = [key for key in own if own[key] != shipped[key]]
    return f"not the shipped study {study.name}: other {', '.join(keys)}" if keys else ""


def study_status(study: Study, out: Path) -> list[tuple[Stage, bool]]:
    """Return every stage with whether it is done; writes nothing."""
    stages = plan_study(study, out.expanduser().resolve())
    left = {stage.job.name for stage in stages_left(stages)}
    return [(stage, stage.job.name not in left) for stage in stages]

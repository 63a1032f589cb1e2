"""A study's stages in order: what depends on what, and what is left to do. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vlm_backbones._stage_kinds import (
    Stage,
    analyze_stage,
    check_stage,
    choose_stage,
    data_stage,
    eval_stage,
    features_stage,
    train_stage,
    uses_pocket_data,
)
from vlm_backbones.run import Run
from vlm_backbones.study import Study

__all__ = ["plan_study", "stages_left"]


def plan_study(study: Study, out: Path) -> list[Stage]:
    """Return all stages of a study in the order in which ready ones start."""
    data = [data_stage(out)] if uses_pocket_data(study) else []
    check = check_stage(study, out, data)
    features = features_stage(study, out, data)
    trained = {run: train_stage(study, out, run, [check, features]) for run in study.runs() if not run.is_best}
    stages = [*data, check, features, *trained.values()]
    if study.sweep:
        trials, best = _sweep_stages(study, out, [check, features], trained)
        stages, trained = [*stages, *trials, *best.values()], trained | best
    evaluated = [eval_stage(study, out, run, train) for run, train in trained.items()]
    return [*stages, *evaluated, analyze_stage(study, out, [check, *evaluated])]


def _sweep_stages(
    study: Study, out: Path, needs: Sequence[Stage], trained: Mapping[Run, Stage]
) -> tuple[list[Stage], dict[Run, Stage]]:
    """Return the trials up to the choice for each backbone, and the trainings at the rates that were chosen.

    A training takes over one that was finished with the same content, so a trial of the recipe's own rate waits for it.
    """
    own_rates = {name: study.recipe_for(name).finetune_stages[0].learning_rate for name in study.backbones}
    trials, validated, chosen = dict[Run, Stage](), dict[Run, Stage](), dict[str, Stage]()
    for run in study.trials():
        same = run.learning_rate == own_rates[run.backbone]
        trials[run] = train_stage(study, out, run, [trained[Run(run.backbone, run.seed)]] if same else needs)
        validated[run] = eval_stage(study, out, run, trials[run])
    for backbone in study.backbones:
        own = {run: stage for run, stage in validated.items() if run.backbone == backbone}
        chosen[backbone] = choose_stage(study, out, backbone, own)
    best = {run: train_stage(study, out, run, [chosen[run.backbone]]) for run in study.runs() if run.is_best}
    return [*trials.values(), *validated.values(), *chosen.values()], best


def stages_left(stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages to run: the unfinished, and those that they alone need."""
    left = [stage for stage in stages if not stage.is_done and not stage.only_for_others]
    for stage in reversed([stage for stage in stages if stage.only_for_others and not stage.is_done]):
        if any(stage.job.name in other.job.needs for other in left):
            left.append(stage)
    names = {stage.job.name for stage in left}
    return [stage for stage in stages if stage.job.name in names]

"""`vlm-backbones study`: train, evaluate and compare all backbones of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vlm_backbones.cache import check_writable
from vlm_backbones.cli._common import OutOption, SetOption, StudyArgument, new_group, tell
from vlm_backbones.errors import ConfigError, DataError

__all__ = ["group"]

group = new_group("Train, evaluate and compare all backbones of a study.")


@group.command("run")
def study_run(study: StudyArgument = "pocket", overrides: SetOption = None, out: OutOption = None) -> None:
    """Train, evaluate, analyze; finished stages are skipped, broken-off ones continue."""
    from rich.console import Console

    from vlm_backbones._display import StudyDisplay, scores_table
    from vlm_backbones._verdict_display import tell_verdict
    from vlm_backbones.pipeline import default_out, run_study
    from vlm_backbones.study import load_study
    from vlm_backbones.trust import tell_of_study

    config = load_study(study, overrides or [])
    tell_of_study(config)
    console = Console()
    try:
        with StudyDisplay(console) as display:
            report = run_study(config, out or default_out(config), display)
    except KeyboardInterrupt:  # typer itself would end without a word
        typer.echo("stopped; what is finished is kept: run the same command again to continue", err=True)
        raise typer.Exit(130) from None
    from vlm_backbones.train.card import refresh_cards

    refresh_cards(report.parent)
    console.print(scores_table(report.parent / "tables"))
    tell_verdict(report)


@group.command("check")
def study_check(study: StudyArgument = "pocket", overrides: SetOption = None, out: OutOption = None) -> None:
    """Write the certificate and run the preflight, without training; nonzero where a confound is found."""
    from vlm_backbones._check_display import render_check, render_estimate
    from vlm_backbones._estimate import estimate_study, measured_data
    from vlm_backbones.control import check_study, missing_parts
    from vlm_backbones.pipeline import own_out
    from vlm_backbones.study import load_study
    from vlm_backbones.trust import tell_of_study

    config = load_study(study, overrides or [])
    tell_of_study(config)
    folder = own_out(config, out)
    check_writable(folder)
    missing = missing_parts(config)
    if missing:
        estimates = estimate_study(config)
        if estimates:
            render_estimate(estimates, "as published, the files are not here", config.training)
        made = "only the estimate was made. Without these files nothing else" if estimates else "without these nothing"
        raise DataError(
            f"{made} could be checked, neither rows and pictures nor labels, truncation and digits of the tokenizers:"
            + "".join(f"\n  - {part}" for part in missing)
        )
    certificate = check_study(config, folder, tell)
    render_check(certificate)
    render_estimate(estimate_study(config, measured_data(certificate)), "as read", config.training)
    typer.echo(folder / "certificate.json")
    if certificate["confounds"]:
        raise ConfigError("the comparison is confounded:" + "".join(f"\n  - {row}" for row in certificate["confounds"]))


@group.command("status")
def study_status(
    folder: Annotated[Path, typer.Argument(help="A study's output folder.", metavar="DIR")],
) -> None:
    """Show what is done and what is left."""
    from vlm_backbones._console import print_rows
    from vlm_backbones._status import is_worked_on, stage_states
    from vlm_backbones.study import load_study

    if not (folder / "study.yaml").is_file():
        raise ConfigError(f"{folder} holds no study.yaml: not a study's output folder.")
    states = stage_states(load_study(folder / "study.yaml"), folder)
    print_rows(
        [
            {
                "stage": f"{row.number} of {len(states)}",
                "": row.stage.job.name,
                "state": row.state,
                "step": row.step,
                "time left": row.left,
            }
            for row in states
        ]
    )
    for row in states:
        if row.is_begun:
            typer.echo(f"log of {row.stage.job.name}: {row.stage.job.log}")
    done = sum(row.state == "done" for row in states)
    running = ", the study is running" if is_worked_on(folder) else ""
    typer.echo(f"{done} of {len(states)} stages done{running}")


@group.command("submit")
def study_submit(
    study: StudyArgument = "pocket",
    executor: Annotated[Literal["slurm", "local"], typer.Option("--executor", help="Where the jobs run.")] = "slurm",
    settings: Annotated[
        list[str] | None,
        typer.Option("--job", metavar="KEY=VALUE", help="Of each Slurm job, as in partition=gpu, time=600, mem=64G."),
    ] = None,
    overrides: SetOption = None,
    out: OutOption = None,
) -> None:
    """Submit the stages as jobs with dependencies; `study status` tells how they stand."""
    from vlm_backbones.pipeline import default_out
    from vlm_backbones.study import load_study
    from vlm_backbones.submission import submit_study
    from vlm_backbones.trust import tell_of_study

    config = load_study(study, overrides or [])
    tell_of_study(config)
    folder = out or default_out(config)
    pairs = dict(_key_value(text) for text in settings or [])
    for name, job in submit_study(config, folder, executor, pairs).items():
        typer.echo(f"{job}  {name}")
    typer.echo(f"vlm-backbones study status {folder}")


def _key_value(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found or not key or not value:
        raise ConfigError(f"--job {text!r}: expected KEY=VALUE, as in partition=gpu.")
    return key, value

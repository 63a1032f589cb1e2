"""`vlm-backbones train` and `eval`: one stage of a study alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vlm_backbones.cache import check_writable
from vlm_backbones.cli._common import OutOption, SetOption, StudyArgument, exit_with, new_group
from vlm_backbones.errors import ConfigError, nearest

__all__ = ["group"]

group = new_group()
_DRAWS = 1_000
"""Behind the intervals that `eval` prints; `analyze` takes more."""


@group.command()
def train(
    study: StudyArgument,
    backbone: Annotated[str, typer.Option("--backbone", help="One of the study's backbones.")],
    seed: Annotated[int, typer.Option("--seed")] = 0,
    overrides: SetOption = None,
    out: OutOption = None,
) -> None:
    """Train one backbone, on as many GPUs as the study says; also under torchrun or accelerate launch."""
    import os

    from vlm_backbones._launch import launch_command
    from vlm_backbones._reporters import check_reporters
    from vlm_backbones.cache import atomic_write_text
    from vlm_backbones.locks import is_held
    from vlm_backbones.pipeline import own_out
    from vlm_backbones.study import load_study

    config = load_study(study, overrides or [])
    if backbone not in config.backbones:
        raise ConfigError(f"{backbone!r} is not in study {config.name}.{nearest(backbone, config.backbones)}")
    check_reporters(config.report_to)
    folder = own_out(config, out)
    if is_held(folder):
        raise ConfigError(f"another process runs the study in {folder}. Wait for it, or choose another --out.")
    atomic_write_text(folder / "study.yaml", config.model_dump_yaml())
    arguments = ["--study", str(folder / "study.yaml"), "--backbone", backbone, "--seed", str(seed)]
    arguments += ["--out", str(folder)]
    if config.training.processes > 1 and "WORLD_SIZE" not in os.environ:  # set by every launcher
        words = config.training.model_dump()
        command = launch_command("vlm_backbones.train.finetune", arguments, **words)
        os.execv(command[0], command)
    from vlm_backbones.train import finetune

    exit_with(finetune.main(arguments))


@group.command("eval")
def evaluate(
    path: Annotated[Path, typer.Argument(metavar="RUN_OR_CHECKPOINT")],
    tasks: Annotated[str, typer.Option("--tasks", help="Task names with commas between.")],
    condition: Annotated[str, typer.Option("--condition", help="Condition names with commas between.")] = "clean",
    out: Annotated[Path | None, typer.Option("--out", help="Default: the run's own folder.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Documents a task.")] = None,
    batch_size: Annotated[str, typer.Option("--batch-size", help="Requests at once, or auto.")] = "16",
) -> None:
    """Evaluate a checkpoint through lmms-eval; a failed evaluation exits nonzero."""
    from vlm_backbones._names import known_tasks

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    known = known_tasks(names)
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown task {name!r}.{nearest(name, known)}")
    if not path.is_dir():
        raise ConfigError(f"no folder {path}: give a run of a study or a checkpoint.")
    check_writable(out or path)
    from vlm_backbones.model_wrappers import evaluate as stage

    arguments = [str(path), "--tasks", ",".join(names), "--conditions", condition]
    arguments += ["--out", str(out or path), "--batch-size", batch_size]
    exit_with(stage.main(arguments + (["--limit", str(limit)] if limit else [])))
    folders = [(out or path) / "logs" / name.strip() for name in condition.split(",")]
    _print_scores([folder for folder in folders if any(folder.rglob("*_samples_*.jsonl"))])


def _print_scores(folders: Sequence[Path]) -> None:
    """Show every metric of the conditions' samples with its interval and n, and where the samples lie."""
    from vlm_backbones._console import print_rows
    from vlm_backbones._display import interval
    from vlm_backbones.analysis.samples import load_logs
    from vlm_backbones.analysis.table_scores import scores

    for folder in folders:
        tables: dict[str, list[dict[str, str]]] = {}
        for row in scores(load_logs([folder]), bootstrap=_DRAWS).iter_rows(named=True):
            title = f"{row['task']}, {folder.name}"
            shown = {title: row["metric"], "score [95 %]": interval(row), "n": f"{row['n']:,}"}
            tables.setdefault(title, []).append(shown)
        for rows in tables.values():
            print_rows(rows)
    for folder in folders:
        typer.echo(folder)

"""`vlm-backbones tasks`: list, describe, and write a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_backbones._console import print_rows
from vlm_backbones.cache import check_writable
from vlm_backbones.cli._common import new_group
from vlm_backbones.errors import ConfigError, nearest

__all__ = ["group"]

group = new_group("The tasks this package adds to lmms-eval.", no_args_is_help=False)


@group.callback(invoke_without_command=True)
def _tasks(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        tasks_list()


@group.command("list")
def tasks_list() -> None:
    """List this package's tasks and those of VLM_BACKBONES_TASKS; every stock task of lmms-eval runs as well."""
    from vlm_backbones._names import own_tasks, user_tasks

    known = user_tasks() | own_tasks()
    print_rows([{"task": name, "file": str(path)} for name, path in sorted(known.items())])


@group.command("describe")
def tasks_describe(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Show a task's README and YAML."""
    from vlm_backbones._names import own_tasks, user_tasks

    known = user_tasks() | own_tasks()
    if name not in known:
        raise ConfigError(f"unknown task {name!r}.{nearest(name, known)}")
    readme = known[name].parent / "README.md"
    for path in (readme, known[name]):
        if path.is_file():
            typer.echo(path.read_text(encoding="utf-8").rstrip() + "\n")


@group.command("new")
def tasks_new(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help="JSON lines, CSV or parquet: image, question, answer.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="The task's folder; default: tasks/NAME.")] = None,
) -> None:
    """Write a task folder from a table of pictures, questions and answers; it runs at once."""
    from vlm_backbones._names import own_tasks, stock_tasks
    from vlm_backbones.data.imports.new_task import write_task

    if name in own_tasks() or name in stock_tasks():
        raise ConfigError(f"a task {name!r} exists, and lmms-eval would run that one. Choose another name.")
    folder = out or Path("tasks") / name
    check_writable(folder)
    count = write_task(name, data, folder)
    typer.echo(f"{count} questions; run them with")
    typer.echo(f"VLM_BACKBONES_TASKS={folder.parent} lmms-eval --model backbone_vlm --tasks {name}")
    typer.echo(folder)

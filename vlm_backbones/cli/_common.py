"""What several groups of commands share: how a group is made, and arguments of one meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vlm_backbones._names import shipped_studies
from vlm_backbones.errors import ConfigError

__all__ = ["OutOption", "SetOption", "StudyArgument", "exit_with", "named_paths", "new_group", "tell"]

StudyArgument = Annotated[
    str,
    typer.Argument(help=f"A shipped study ({', '.join(shipped_studies())}), a YAML file or a study's output folder."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one value, as in recipe.finetune.steps=5."),
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Output folder; default: runs/STUDY_NAME.")]


def new_group(help_text: str = "", **changes: Any) -> typer.Typer:
    """Return an empty group of commands that looks as all others do; without a text its commands join the others."""
    options: dict[str, Any] = {
        "no_args_is_help": True,
        "add_completion": False,
        "pretty_exceptions_enable": False,
        "context_settings": {"help_option_names": ["-h", "--help"]},
    }
    return typer.Typer(help=help_text or None, **options | changes)


def named_paths(texts: list[str] | None) -> dict[str, Path]:
    """Return {name: path} of `--run NAME=PATH`."""
    named: dict[str, Path] = {}
    for text in texts or []:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"--run {text!r} is not NAME=PATH.")
        if name in named:
            raise ConfigError(f"--run {name}: two paths, {named[name]} and {path}. Give each run a name of its own.")
        named[name] = Path(path)
    return named


def exit_with(code: object) -> None:
    """End the process where a stage's own command did not succeed."""
    if isinstance(code, int) and code:
        raise typer.Exit(code)


def tell(line: str) -> None:
    """Say what takes time, beside the results."""
    typer.echo(line, err=True)

"""All groups under one command, and what becomes of an error."""

from __future__ import annotations

import errno
import sys
from typing import Annotated, NoReturn

import typer

from vlm_backbones.cli import checkpoints, data, judge, logs, registries, stages, study, tasks
from vlm_backbones.cli._common import new_group
from vlm_backbones.errors import VlmBackbonesError, writing_remedy

__all__ = ["app", "main"]

app = new_group("Swap the LLM of a vision-language model with everything else equal.")
for commands in (stages.group, logs.group, registries.group, checkpoints.group):
    app.add_typer(commands)
app.add_typer(study.group, name="study")
app.add_typer(tasks.group, name="tasks")
app.add_typer(judge.group, name="judge")
app.add_typer(data.group, name="data")


def _version(value: bool) -> None:
    if value:
        from vlm_backbones import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Swap the LLM of a vision-language model with everything else equal, and see what really changes."""


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """Run the command line; what a user can mend is one message and exit code 2."""
    debug = "--debug" in sys.argv[1:]
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        app(arguments)
    except VlmBackbonesError as error:
        if debug:
            raise
        _fail(str(error))
    except OSError as error:
        if debug or error.errno not in {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT}:
            raise
        _fail(f"{error.filename or 'the output folder'}: {error.strerror}. {writing_remedy(error)}")

"""`vlm-backbones judge`: questions for a judge, and its grades back into the logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_backbones.cache import check_writable
from vlm_backbones.cli._common import new_group

__all__ = ["group"]

group = new_group("Grade logged answers with any judge.")
LogsArgument = Annotated[Path, typer.Argument(metavar="LOGS", help="A folder or file of logged samples.")]


@group.command("write")
def judge_write(
    logs: LogsArgument, out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")]
) -> None:
    """Write the questions for a judge, and the files that the ViP-Bench server takes."""
    from vlm_backbones.tasks.judge_files import write_questions

    check_writable(out)
    typer.echo(f"{write_questions(logs, out)} questions: grade each from 0 to 1")
    typer.echo(out / "questions.jsonl")


@group.command("read")
def judge_read(
    logs: LogsArgument,
    grades: Annotated[Path, typer.Argument(metavar="GRADES", help="JSON lines with key and grade.")],
) -> None:
    """Write a judge's grades into the logged samples and their results files."""
    from vlm_backbones.tasks.judge_files import read_grades

    counts = read_grades(logs, grades)
    typer.echo(f"{counts.graded} answers graded, {counts.ungraded} without a grade, {counts.unused} grades not used")

"""`vlm-backbones data`: build and import the tasks' datasets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from vlm_backbones._console import print_rows
from vlm_backbones.cache import check_writable
from vlm_backbones.cli._common import new_group
from vlm_backbones.errors import ConfigError

__all__ = ["group"]

group = new_group("Build and import the tasks' datasets.")
imports = new_group("Turn other data into the tasks' dataset folders.")
group.add_typer(imports, name="import")

SplitOption = Annotated[Literal["train", "validation", "test"], typer.Option("--split")]
ColumnOption = Annotated[
    list[str] | None, typer.Option("--column", metavar="ROLE=COLUMN", help="Where the name does not say it.")
]
TableArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Parquet, JSON lines or CSV.")]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT")]


@group.command("build")
def data_build() -> None:
    """Build the pocket datasets into the user's cache, once, and print their folder."""
    from vlm_backbones.pocket import datasets

    typer.echo(datasets.ensure_pocket_data())


@imports.command("earthquakes")
def import_earthquakes(
    source: Annotated[Path, typer.Argument(metavar="CSV", help="A catalogue with the columns of earthquakes.csv.")],
    out: Annotated[Path, typer.Argument(metavar="OUT")],
    frames: Annotated[
        Literal["pocket", "auto"], typer.Option("--frames", help="pocket: the study's windows; auto: one around each.")
    ] = "pocket",
) -> None:
    """Draw a catalogue's events as shake maps, into the test splits of the two seismic tasks."""
    if not source.is_file():
        raise ConfigError(f"no file {source}.")
    from vlm_backbones.pocket import datasets

    check_writable(out)
    counts = datasets.import_earthquakes(source, out, frames=frames)
    typer.echo(f"{counts['drawn']} events drawn, {counts['left_out']} outside the windows left out")
    typer.echo(out)


@imports.command("multiseismo")
def import_multiseismo(
    source: TableArgument, out: OutArgument, column: ColumnOption = None, split: SplitOption = "test"
) -> None:
    """Turn MultiSeismo's table into the datasets of the two seismic tasks."""
    from vlm_backbones.data.imports.task_tables import SEISMIC_TASKS

    _import_table(source, out, SEISMIC_TASKS, column or [], split)


@imports.command("jsonl")
def import_jsonl(
    source: TableArgument, out: OutArgument, column: ColumnOption = None, split: SplitOption = "test"
) -> None:
    """Turn a table of pictures with questions, descriptions or places into the datasets of the tasks that it fits."""
    from vlm_backbones.data.imports.task_tables import TASKS

    _import_table(source, out, tuple(TASKS), column or [], split)


def _import_table(source: Path, out: Path, tasks: Sequence[str], column: Sequence[str], split: str) -> None:
    from vlm_backbones.data.imports.task_tables import import_table, roles_of

    pairs = [text.partition("=") for text in column]
    for role, equals, name in pairs:
        if not (role and equals and name):
            raise ConfigError(f"--column {role + equals + name!r} is not ROLE=COLUMN, as latitude=lat.")
    check_writable(out)
    made = import_table(source, out, tasks=tasks, columns={role: name for role, _, name in pairs}, split=split)
    taken = made.columns
    doubts = {role: f"- ({' or '.join(names)}?)" for role, names in taken.unclear.items()}
    print_rows([{"role": role, "column": taken.found.get(role, doubts.get(role, "-"))} for role in roles_of(tasks)])
    typer.echo(f"not used: {', '.join(taken.unused) or 'none'}")
    for task, count in made.counts.items():
        typer.echo(f"{task}: {count} rows")
    typer.echo(out)


@imports.command("llava")
def import_llava(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Instruct JSON; pictures relative to it.")],
    out: OutArgument,
    split: SplitOption = "test",
    max_words: Annotated[int, typer.Option("--max-words", min=1, help="Of the longest answer that is kept.")] = 5,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first so many questions.")] = None,
) -> None:
    """Turn the short questions of LLaVA's Instruct JSON into the dataset of vqa_scene; training reads the JSON."""
    from vlm_backbones.data.imports import llava

    check_writable(out)
    made = llava.import_llava(source, out, split=split, max_words=max_words, limit=limit)
    for why, count in made.left_out.items():
        typer.echo(f"left out: {count} {why}")
    typer.echo(f"vqa_scene: {made.count} rows")
    typer.echo(out)


@imports.command("vqav2")
def import_vqav2(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="Official questions and annotations JSON.")],
    out: Annotated[Path, typer.Argument(metavar="OUT")],
    images: Annotated[Path | None, typer.Option("--images", help="The pictures; default: as FOLDER/val2014.")] = None,
    split: SplitOption = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first so many questions.")] = None,
) -> None:
    """Turn VQAv2's official files into the dataset of vqa_scene."""
    from vlm_backbones.data.imports import vqav2

    check_writable(out)
    count = vqav2.import_vqav2(source, out, images=images, split=split, limit=limit)
    typer.echo(f"vqa_scene: {count} rows")
    typer.echo(out)

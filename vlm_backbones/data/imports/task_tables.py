"""A user's table -> dataset folders of the tasks whose columns it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.imports import event_rows, question_rows
from vlm_backbones.data.imports.columns import Columns, guess_columns
from vlm_backbones.data.imports.tables import Table, read_table
from vlm_backbones.data.imports.write import refuse_existing, save_split
from vlm_backbones.errors import DataError

__all__ = ["SEISMIC_TASKS", "TASKS", "Imported", "import_table", "roles_of"]

Row = dict[str, Any]


@dataclass(frozen=True)
class _Task:
    """Columns of the dataset, roles that the table needs for it, roles that stand in for one of them, and the rows."""

    kinds: Mapping[str, str]
    needed: tuple[str, ...]
    build: Callable[[Mapping[str, Any], str, Path], Row]
    instead: Mapping[str, tuple[str, ...]]


_EVENT = event_rows.build_event
TASKS = {
    "vqa_scene": _Task(question_rows.KINDS, ("image", "question", "answers"), question_rows.build_question, {}),
    "seismic_description": _Task(
        event_rows.DESCRIPTION_KINDS, ("image", "description"), _EVENT, {"description": event_rows.FACTS}
    ),
    "seismic_coords": _Task(event_rows.COORDS_KINDS, ("image", "latitude", "longitude"), _EVENT, {}),
}
SEISMIC_TASKS = ("seismic_description", "seismic_coords")
_OPTIONAL = ("paraphrase",)


@dataclass(frozen=True)
class Imported:
    """What an import wrote: what each column was taken for, task -> rows."""

    columns: Columns
    counts: dict[str, int]


def roles_of(tasks: Sequence[str]) -> list[str]:
    """Return the roles that a column may have for these tasks."""
    roles = [role for task in tasks for role in (*TASKS[task].kinds, *TASKS[task].needed)]
    return list(dict.fromkeys([*roles, *(_OPTIONAL if "vqa_scene" in tasks else ())]))


def import_table(
    source: Path, out: Path, *, tasks: Sequence[str], columns: Mapping[str, str] | None = None, split: str = "test"
) -> Imported:
    """Write OUT/TASK/SPLIT of each task; one that lacks its columns is left out.

    Parameters
    ----------
    source
        Parquet, JSON lines or CSV; pictures inside, or files under its folder.
    columns
        Role -> column, where the name does not say it.
    split
        train, validation or test.

    Raises
    ------
    ConfigError, DataError
        If no task has its columns, rows are malformed (all are named), or the folders exist; the message says what each
        column was taken for.
    """
    table = read_table(source)
    taken = guess_columns(table.columns, roles_of(tasks), columns or {})
    lacks = {task: _lacking(TASKS[task], taken.found) for task in tasks}
    chosen = [task for task in tasks if not lacks[task]]
    if not chosen:
        needed = "; ".join(f"{task} lacks {', '.join(names)}" for task, names in lacks.items())
        raise DataError(f"{source}: {needed}. Columns {taken}. Say which with --column ROLE=COLUMN.")
    folders = {task: refuse_existing(out, task, split) for task in chosen}
    bad = BadRows()
    for task in chosen:
        for place, row in table.rows(bad):
            with bad.gather():
                TASKS[task].build(_by_role(row, taken), place, source.parent)
    try:
        bad.refuse()
    except DataError as error:
        raise DataError(f"{error}\nColumns {taken}. --column ROLE=COLUMN says otherwise.") from error
    kinds = {task: _kinds(task, taken) for task in chosen}
    counts = {
        task: save_split(folder, _rows(table, taken, TASKS[task], kinds[task]), kinds[task])
        for task, folder in folders.items()
    }
    return Imported(taken, counts)


def _kinds(task: str, taken: Columns) -> dict[str, str]:
    """Return the dataset's columns; a paraphrase is one where the table has it, else its condition is skipped."""
    own = dict(TASKS[task].kinds)
    return own | {name: "text" for name in _OPTIONAL if task == "vqa_scene" and name in taken.found}


def _lacking(task: _Task, found: Mapping[str, str]) -> list[str]:
    """Return the roles that the table has no column for, nor what can stand in for it."""
    return [
        role
        for role in task.needed
        if role not in found and not (role in task.instead and all(name in found for name in task.instead[role]))
    ]


def _by_role(row: Row, taken: Columns) -> Row:
    return {role: row.get(column) for role, column in taken.found.items()}


def _rows(table: Table, taken: Columns, task: _Task, kinds: Mapping[str, str]) -> Iterator[Row]:
    for place, cells in table.rows():
        row = task.build(_by_role(cells, taken), place, table.path.parent)
        yield {name: row.get(name) for name in kinds}

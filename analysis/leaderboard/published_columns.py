"""Which metric of lmms-eval stands in which column of a shipped table: a YAML file beside the table."""

from __future__ import annotations

__all__ = ["PublishedColumn", "columns_beside", "with_columns"]

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from vlm_backbones.analysis.leaderboard.logged import Wanted
from vlm_backbones.errors import DataError


class PublishedColumn(BaseModel):
    """One metric of lmms-eval and the column that it fills; the keys are described in the YAML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str
    task: str
    metric: str
    unit: Literal["percent", "fraction", "points"]
    mean: bool
    differs: str
    beside: str | None = None

    @property
    def comparable(self) -> bool:
        """Whether the metric stands in the published column itself."""
        return self.beside is None


def columns_beside(table: Path) -> list[PublishedColumn]:
    """Return the columns of a table's YAML file; none where a table has no such file.

    Raises
    ------
    DataError
        If the file is malformed, or two metrics fill one column.
    """
    path = table.with_suffix(".yaml")
    if not path.is_file():
        return []
    try:
        rows = TypeAdapter(list[PublishedColumn]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise DataError(f"{path} is no list of columns: {error}") from error
    names = [row.column for row in rows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"{path}: two metrics fill the column {', '.join(sorted(twice))}.")
    return rows


def with_columns(wanted: Sequence[Wanted], columns: Sequence[PublishedColumn]) -> list[Wanted]:
    """Return what the user asked for, and the published columns of all other tasks."""
    named = {one.task for one in wanted}
    return [
        *wanted,
        *(
            Wanted(row.column, row.task, row.metric, unit=row.unit, is_mean=row.mean, optional=True)
            for row in columns
            if row.task not in named
        ),
    ]

"""Published tables: a CSV with one line a number."""

from __future__ import annotations

__all__ = ["read_published", "shipped_tables"]

import csv
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from vlm_backbones.analysis.leaderboard.claimed import MISSING_TEXT, Claim, Entry, Unit, visible
from vlm_backbones.errors import DataError, nearest

_SHIPPED = Path(__file__).parents[1] / "published"
_REQUIRED = ("architecture", "backbone", "checkpoint", "benchmark", "value")
_PROBLEMS_SHOWN = 12


def shipped_tables() -> dict[str, Path]:
    """Name -> CSV of the tables that come with the package."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.csv"))}


def _none_if_missing(text: Any) -> Any:
    return None if isinstance(text, str) and text.strip().lower() in MISSING_TEXT else text


Name = Annotated[str, BeforeValidator(lambda text: visible(text.strip())), Field(max_length=200)]
Number = Annotated[Annotated[float, Field(allow_inf_nan=False)] | None, BeforeValidator(_none_if_missing)]
Count = Annotated[Annotated[int, Field(ge=1, le=10**12)] | None, BeforeValidator(_none_if_missing)]


class _Row(BaseModel):
    """One line of a published table; the columns are described in `read_published`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Name
    backbone: Annotated[Name, Field(min_length=1)]
    checkpoint: Name
    benchmark: Annotated[Name, Field(min_length=1)]
    value: Number
    metric: Name = ""
    unit: Annotated[Unit | None, BeforeValidator(_none_if_missing)] = None
    higher_is_better: Annotated[bool | None, BeforeValidator(_none_if_missing)] = None
    worst: Number = None
    best: Number = None
    n: Count = None
    source: Name = ""

    @model_validator(mode="after")
    def _consistent(self) -> _Row:
        if (self.worst is None) != (self.best is None):
            raise ValueError("worst and best belong together: give both or neither")
        if self.worst is not None and self.best is not None:
            if self.worst == self.best:
                raise ValueError("worst and best are equal: no score lies between them")
            if self.higher_is_better not in (None, self.best > self.worst):
                raise ValueError(f"higher_is_better says {self.higher_is_better}, but best and worst say otherwise")
        top = {"percent": 100.0, "fraction": 1.0}.get(self.unit or "")
        if top is not None and self.value is not None and not 0 <= self.value <= top:
            raise ValueError(f"value {self.value:g} is outside 0 to {top:g}; write unit = points, with worst and best")
        return self


def read_published(path: Path) -> list[Claim]:
    """Read a table; a line without a value is a missing score, never zero.

    Columns that must be there: `architecture`, `backbone`, `checkpoint`, `benchmark`, `value`. Columns that may:

    - `metric`: what the number is (accuracy, F1); two metrics under one benchmark are refused.
    - `unit`: percent (0 to 100), fraction (0 to 1) or points. Left out, it is read from the file's values of that
      benchmark: fraction where all lie in 0 to 1, percent where all lie in 0 to 100, else points.
    - `higher_is_better`: true (default) or false.
    - `worst`, `best`: the ends of the scale, counted as 0 and 100 in the normalised score (MME perception: 0 and 2000).
      Percent and fraction have them already; points without them count for ranks only.
    - `n`: number of questions whose mean the value is, for the binomial interval. Leave it out where the value is no
      mean of scores between 0 and 1 (F1, sums, ratios).
    - `source`: where the number was published.

    Raises
    ------
    DataError
        If the file cannot be read or a line is malformed; all problems at once, each with its line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            _check_header(path, list(reader.fieldnames or ()))
            rows = [(reader.line_num, dict(row)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}. A UTF-8 CSV with commas is expected.") from error
    claims, problems = [], []
    for line, row in rows:
        if None in row:
            problems.append(f"line {line}: more cells than columns; put text with commas into quotes")
            continue
        try:
            parsed = _Row.model_validate({key: value for key, value in row.items() if value is not None})
        except ValidationError as error:
            problems += [f"line {line}: {_said(one)}" for one in error.errors()]
            continue
        if parsed.value is not None:
            claims.append(_claim(parsed, path.name, line))
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN
        shown = problems[:_PROBLEMS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise DataError(f"{path}:" + "".join(f"\n  - {one}" for one in shown))
    if not claims:
        raise DataError(f"{path} holds no score. Each line needs {', '.join(_REQUIRED)}.")
    return claims


def _check_header(path: Path, header: list[str]) -> None:
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        raise DataError(
            f"{path}: the first line lacks the columns {', '.join(missing)}. A published table has "
            f"{','.join(_REQUIRED)} and may have metric,unit,higher_is_better,worst,best,n,source."
        )
    for name in header:
        if name not in _Row.model_fields:
            raise DataError(f"{path}: unknown column {name!r}.{nearest(name, _Row.model_fields)}")
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise DataError(f"{path}: the column {', '.join(sorted(twice))} stands twice. Remove one.")


def _claim(row: _Row, name: str, line: int) -> Claim:
    label = f"{row.architecture} {row.backbone}".strip()
    entry = Entry(label, row.architecture, row.backbone, row.checkpoint, "published")
    own = row.model_dump(include={"benchmark", "metric", "value", "unit", "higher_is_better", "worst", "best", "n"})
    source = row.source or f"{name} line {line}"
    return Claim(entry=entry, origin="table", source=source, is_mean=row.n is not None, **own)


def _said(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    found = f", found {str(error['input'])[:60]!r}" if place else ""
    return f"{place}: {message[0].lower()}{message[1:]}{found}" if place else message

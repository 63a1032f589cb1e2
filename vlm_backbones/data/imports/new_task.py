"""A task folder for lmms-eval from a table of pictures, questions and answers; it runs as it is, and is the user's.

The folder can be moved: its YAML names the data beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlm_backbones.cache import atomic_write_text, staged_path
from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.imports.tables import Table, picture_of, read_table
from vlm_backbones.data.imports.write import features_of
from vlm_backbones.errors import ConfigError, DataError, half_character

__all__ = ["write_task"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TEMPLATES = Path(__file__).parent / "task_template"
_KINDS = {"image": "image", "question": "text", "answers": "texts", "options": "texts", "question_type": "text"}
_FILES = {"task.yaml.j2": "{name}.yaml", "utils.py.j2": "utils.py", "README.md.j2": "README.md"}


def write_task(name: str, data: Path, out: Path) -> int:
    """Write OUT with NAME.yaml, utils.py, README.md and data.parquet; return the number of questions.

    Parameters
    ----------
    name
        The task's name: lower-case letters, digits and underscores.
    data
        JSON lines, CSV or parquet with the columns `image` (a file's name under the table's folder, or an encoded
        picture), `question`, and `answer` (or `answers`, up to ten); `options` (a list) and `question_type` are kept.
    out
        A folder that does not exist.

    Raises
    ------
    ConfigError
        If the name is no task name, or `out` exists.
    DataError
        If the table lacks a column or rows are malformed; all are named.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no task name: lower-case letters, digits and underscores, a letter first.")
    if out.exists():
        raise ConfigError(f"{out} exists already. Name another folder with --out.")
    table = read_table(data)
    _check_columns(table)
    bad = BadRows()
    for place, row in table.rows(bad):
        with bad.gather():
            _example(row, place, data.parent)
    bad.refuse()
    kinds = {role: kind for role, kind in _KINDS.items() if role in {"image", "question", "answers", *table.columns}}
    count = _save(table, out / "data.parquet", kinds)
    _render(out, {"name": name, "count": count, "options": "options" in kinds, "types": "question_type" in kinds})
    return count


def _check_columns(table: Table) -> None:
    missing = [column for column in ("image", "question") if column not in table.columns]
    if not {"answer", "answers"} & set(table.columns):
        missing.append("answer")
    if missing:
        raise DataError(
            f"{table.path}: the columns {', '.join(missing)} are missing; it has {', '.join(table.columns)}. "
            "Expected image, question and answer (or answers)."
        )


def _example(row: Mapping[str, Any], place: str, root: Path) -> dict[str, Any]:
    question = str(row.get("question") or "").strip()
    if not question:
        raise DataError(f"{place}: the question is empty. Fill it in or drop the row.")
    given = row.get("answers") if row.get("answers") is not None else row.get("answer")
    answers = [str(answer) for answer in (given if isinstance(given, list) else [given]) if answer is not None]
    if not 1 <= len(answers) <= 10 or not all(answer.strip() for answer in answers):
        raise DataError(f"{place}: the answer is {given!r}, expected a text, or a list of one to ten.")
    options = row.get("options") or []
    if not isinstance(options, list):
        raise DataError(f"{place}: options is {options!r}, expected a list of texts.")
    texts = {
        "question": question,
        "answers": answers,
        "options": [str(option) for option in options],
        "question_type": str(row.get("question_type") or ""),
    }
    try:
        json.dumps(texts, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: {half_character(error)}") from error
    return {"image": {"bytes": picture_of(row.get("image"), root, place), "path": None}, **texts}


def _save(table: Table, file: Path, kinds: Mapping[str, str]) -> int:
    """Write the rows as parquet, which carries the kinds of its columns; pictures are stored in it."""
    import pyarrow.parquet

    schema = features_of(kinds).arrow_schema
    count = 0
    with staged_path(file) as staged, pyarrow.parquet.ParquetWriter(staged, schema) as writer:
        for rows in _chunks(table, 64):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def _chunks(table: Table, size: int) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for place, row in table.rows():
        rows.append(_example(row, place, table.path.parent))
        if len(rows) == size:
            yield rows
            rows = []
    if rows:
        yield rows


def _render(out: Path, facts: Mapping[str, Any]) -> None:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
        trim_blocks=True,
    )  # fmt: skip
    for template, file in _FILES.items():
        atomic_write_text(out / file.format(**facts), environment.get_template(template).render(**facts))

"""Tables of a user: JSON lines, CSV or parquet, row by row, with the pictures that they name or hold."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data._pictures import is_address
from vlm_backbones.data.conversations import ImageSource
from vlm_backbones.errors import DataError
from vlm_backbones.json_text import parse_json

__all__ = ["Table", "picture_of", "read_table"]

Row = dict[str, Any]
KINDS = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Table:
    """A file with its columns; `rows` reads it anew, each row with its place for messages."""

    path: Path
    columns: list[str]

    def rows(self, bad: BadRows | None = None) -> Iterator[tuple[str, Row]]:
        """Yield (file and row, cells by column); `bad` gathers the malformed ones, without it they are raised."""
        gathered = BadRows() if bad is None else bad
        for index, row in enumerate(_READERS[self.path.suffix.lower()](self.path, gathered)):
            if row is not None:
                yield f"{self.path} row {index}", row
        if bad is None:
            gathered.refuse()


def read_table(path: Path) -> Table:
    """Return a table, its first row that is not malformed read.

    Raises
    ------
    DataError
        If the file is missing, of another kind, malformed or empty.
    """
    if not path.is_file():
        raise DataError(f"no file {path}. Expected a table: {', '.join(KINDS)}.")
    if path.suffix.lower() not in _READERS:
        raise DataError(f"{path} is no {', '.join(KINDS)} file. Convert it to one of these.")
    bad = BadRows()
    first = next((row for row in _READERS[path.suffix.lower()](path, bad) if row is not None), None)
    if first is None:
        bad.refuse()
        raise DataError(f"{path} has no rows.")
    return Table(path, list(first))


def _json_lines(path: Path, bad: BadRows) -> Iterator[Row | None]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                row = None
                with bad.gather():
                    row = _json_object(line, f"{path} line {number}")
                yield row


def _json_object(line: bytes, place: str) -> Row:
    try:
        row = parse_json(line.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise DataError(f"{place} is not valid JSON ({error}).") from error
    if not isinstance(row, dict):
        raise DataError(f"{place} is {line.strip()[:60].decode('utf-8', 'replace')!r}, expected a JSON object.")
    return row


def _json_list(path: Path, bad: BadRows) -> Iterator[Row]:
    try:
        rows = parse_json(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}). JSON lines end in .jsonl.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} holds no list of objects. JSON lines end in .jsonl.")
    yield from rows


def _csv(path: Path, bad: BadRows) -> Iterator[Row | None]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            for row in reader:
                is_whole = not (None in row or None in row.values())
                with bad.gather():
                    if not is_whole:
                        raise DataError(f"{path} line {reader.line_num}: not as many cells as columns. Quote commas.")
                yield row if is_whole else None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no UTF-8 CSV with commas ({error}).") from error


def _parquet(path: Path, bad: BadRows) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=64):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no readable parquet file ({error}).") from error


_READERS: dict[str, Callable[[Path, BadRows], Iterator[Row | None]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
    ".parquet": _parquet,
}


def _inside(root: Path, name: str, place: str) -> Path:
    if is_address(name):
        raise DataError(f"{place}: image {name[:200]!r} is an address. Pictures are read from files only: download it.")
    try:
        file = (root / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise DataError(f"{place}: image {name[:200]!r} is no file name ({error}).") from error
    if not file.is_relative_to(root.resolve()):
        raise DataError(f"{place}: image {name!r} lies outside {root}. Move it there, or name the right folder.")
    return file


def picture_of(cell: Any, root: Path, place: str) -> bytes:
    """Return the encoded picture of a cell: bytes, {bytes, path} as datasets write it, or a file under `root`.

    Raises
    ------
    DataError
        If there is no picture, it cannot be decoded, or its file lies outside `root`.
    """
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes) and cell:
        source = ImageSource(place, data=cell)
    elif isinstance(cell, str) and cell.strip():
        source = ImageSource(place, path=_inside(root, cell.strip(), place))
    else:
        raise DataError(f"{place}: the image is {str(cell)[:60]!r}. Expected a file's name or an encoded picture.")
    source.open()
    return source.read()

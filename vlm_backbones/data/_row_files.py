"""Files of conversations: LLaVA Instruct JSON (a list of rows), JSONL (a row a line), parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlm_backbones.cache import cache_dir
from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data._chat_rows import build_example
from vlm_backbones.data._region_rows import build_region_example
from vlm_backbones.data.conversations import Example
from vlm_backbones.data.region_records import is_region_record
from vlm_backbones.errors import DataError
from vlm_backbones.json_text import parse_json

__all__ = ["is_row_file", "read_rows"]


def is_row_file(path: Path) -> bool:
    """Return whether a file, or a folder of parquet files, is read as rows of conversations."""
    return path.is_file() or (path.is_dir() and any(path.glob("*.parquet")))


def read_rows(path: Path, bad: BadRows) -> list[Example]:
    """Return one example a good row, its turns a chain; `bad` gathers the others.

    Parameters
    ----------
    path
        A .json, .jsonl or .parquet file, or a folder of parquet files; pictures are named relative to it.

    Raises
    ------
    DataError
        If the file is of no known kind, malformed or empty.
    """
    examples: list[Example] = []
    rows = 0
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        read = _READERS.get(file.suffix)
        if read is None:
            raise DataError(f"{file}: expected {', '.join(_READERS)}, found {file.suffix or 'no ending'!r}.")
        root = file.parent.resolve()
        for index, row in read(file):
            rows += 1
            with bad.gather():
                examples.append(_example(row, index, f"{file} row {index}", root))
    if not rows:
        raise DataError(f"{path} is empty: expected rows with 'conversations' or 'messages'.")
    return examples


def _example(row: Any, index: int, place: str, root: Path) -> Example:
    if isinstance(row, ValueError):
        raise DataError(f"{place} is not valid JSON ({row}).") from row
    if isinstance(row, dict) and is_region_record(row):
        return build_region_example(row, place, root)
    return build_example(row, index, place, root)


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        rows = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(rows, list):
        raise DataError(f"{path} holds no list: expected rows with 'conversations', found {rows!r:.80}.")
    yield from enumerate(rows)


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield each line's row; the row of a line that is no JSON is the error."""
    try:
        with path.open("rb") as lines:
            for index, line in enumerate(lines):
                if line.strip():
                    yield index, _parsed(line)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}).") from error


def _parsed(line: bytes) -> Any:
    try:
        return parse_json(line.decode("utf-8"))
    except ValueError as error:
        return error


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield each row; pictures stay in the memory-mapped table until they are read."""
    import datasets

    try:
        cache = str(cache_dir() / "datasets")
        table = datasets.Dataset.from_parquet(str(path), cache_dir=cache).with_format("arrow")[:]
        name = next((column for column in ("image", "images") if column in table.column_names), None)
        texts = table.drop_columns([name] if name else [])
        texts.validate(full=True)  # a damaged text is no UTF-8
    except Exception as error:  # a damaged file makes datasets and Arrow raise nearly anything
        raise DataError(f"{path} cannot be read as parquet ({error.__cause__ or error}).") from error
    pictures = table.column(name) if name else None
    if pictures is not None and not _holds_pictures(pictures.type):
        raise DataError(f"{path}: column {name} holds {pictures.type}; expected pictures as struct<bytes, path>.")
    for index, row in enumerate(texts.to_pylist()):
        yield index, {**row, "image": _lazy(pictures[index]) if pictures is not None else None}


def _holds_pictures(kind: Any) -> bool:
    """Whether a column's cells may be pictures: a struct needs bytes and path, once each."""
    import pyarrow as pa  # type: ignore[import-untyped]

    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_pictures(kind.value_type)
    return not pa.types.is_struct(kind) or all(kind.get_field_index(name) >= 0 for name in ("bytes", "path"))


def _lazy(cell: Any) -> Any:
    """Return a picture's cell: of a list its members, of an image its bytes unread where it has some, else its path."""
    import pyarrow as pa

    if not cell.is_valid:
        return None
    if isinstance(cell, pa.ListScalar | pa.LargeListScalar):
        return [_lazy(cell.values[index]) for index in range(len(cell.values))]
    if isinstance(cell, pa.StructScalar):
        return _lazy(cell["bytes"]) or _lazy(cell["path"])
    return cell if pa.types.is_binary(cell.type) or pa.types.is_large_binary(cell.type) else cell.as_py()


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".json": _json_rows,
    ".jsonl": _jsonl_rows,
    ".parquet": _parquet_rows,
}

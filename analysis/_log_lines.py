"""The lines of a log of samples, parsed in batches."""

from __future__ import annotations

__all__ = ["read_batches"]

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from vlm_backbones.analysis._values import text
from vlm_backbones.analysis.record import is_sample
from vlm_backbones.errors import LogError
from vlm_backbones.json_text import parse_json

_BATCH = 4096
_BATCH_BYTES = 16 * 2**20
_STARTS = b'{"'
_LONGEST_BYTES = 64 * 2**20
"""Of a row: a compressed file of a megabyte can hold one of gigabytes."""
_MOST_BLANK_BYTES = 2**20
"""In blank lines, of which a compressed file of a megabyte can hold a thousand million."""


def read_batches(path: Path, notes: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Yield the samples of a log, up to 4,096 at a time.

    Rows that are cut off (a run that was killed; another may have been appended), and a compressed file that ends
    early, are reported in `notes`; the other rows are used.

    Raises
    ------
    LogError
        If the file cannot be read, or a row is no sample of lmms-eval; the message names the row.
    """
    cut: list[int] = []
    for lines in _numbered_lines(path, notes):
        records = _parse_together(list(lines.values()))
        if records is None:
            records = _parse_one_by_one(path, lines, cut)
        if records:
            yield records
    if cut:
        rows = f"row {cut[0]} is" if len(cut) == 1 else f"{len(cut)} rows, the first of them row {cut[0]}, are"
        notes.append(f"{path}: {rows} cut off and left out; the rest was used.")


def _parse_together(lines: list[bytes]) -> list[dict[str, Any]] | None:
    """The samples of well-formed lines, in one call; None where any of them is something else."""
    try:
        records = orjson.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        return None
    # a cut line and its neighbour may parse as one record
    return records if len(records) == len(lines) and all(map(is_sample, records)) else None


def _parse_one_by_one(path: Path, lines: Mapping[int, bytes], cut: list[int]) -> list[dict[str, Any]]:
    """The samples of some lines; `cut` gets the rows that are cut off."""
    records = []
    for row, line in lines.items():
        try:
            record = _parse(line)
        except ValueError as error:
            if not line.startswith(_STARTS):
                raise LogError(f"{path} row {row}: not valid JSON ({error}). Repair or remove the row.") from error
            cut.append(row)
            continue
        if not is_sample(record):
            raise LogError(f"{path} row {row}: {_what_it_is(record)}")
        records.append(record)
    return records


def _numbered_lines(path: Path, notes: list[str]) -> Iterator[dict[int, bytes]]:
    """Yield row number (from 1) -> line, of up to 4,096 rows or 16 MB at a time, blank lines left out."""
    row, size, blank, lines = 0, 0, 0, {}
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for row, line in enumerate(iter(lambda: file.readline(_LONGEST_BYTES), b""), start=1):
                if len(line) == _LONGEST_BYTES:
                    raise LogError(
                        f"{path} row {row}: longer than {_LONGEST_BYTES >> 20} MB. Repair or remove the row."
                    )
                if not line.isspace():
                    lines[row] = line
                    size += len(line)
                else:
                    blank += len(line)
                    if blank > _MOST_BLANK_BYTES:
                        raise LogError(f"{path} row {row}: more than a megabyte of blank lines. Remove them.")
                if len(lines) == _BATCH or size > _BATCH_BYTES:
                    yield lines
                    size, lines = 0, {}
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        notes.append(f"{path}: the file ends early after row {row} ({error}); the rows before were used.")
    except OSError as error:
        raise LogError(f"cannot read {path}: {error.strerror or error}. Check the path and its permissions.") from error
    if lines:
        yield lines


def _parse(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except ValueError:  # what Python writes and the JSON standard lacks: bare NaN, lone surrogates; also broken UTF-8
        record = parse_json(line.decode("utf-8", "replace"))
        return {text(key): value for key, value in record.items()} if isinstance(record, dict) else record


def _what_it_is(record: Any) -> str:
    if not isinstance(record, dict):
        return f"a JSON object is expected, found {type(record).__name__}."
    return (
        f"not a sample of lmms-eval (it has {', '.join(list(record)[:8])}; doc_id and filtered_resps are expected). "
        "Leave this file out, or log with lmms-eval --log_samples."
    )

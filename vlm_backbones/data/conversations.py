"""Examples: an image with its turns, read from the three tasks' dataset folders or from files of conversations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.errors import DataError, half_character
from vlm_backbones.pictures import open_rgb
from vlm_backbones.study import Data

__all__ = ["Example", "ImageSource", "Turn", "examples_digest", "load_examples", "load_training_examples"]

IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class ImageSource:
    """An encoded picture: its bytes, or the file that holds them."""

    place: str
    """Where it came from, for messages."""
    data: bytes | None = None
    path: Path | None = None
    cell: Any = None
    """In place of `data` the cell of a memory-mapped table, read when it is needed."""
    renamed: bool = False
    """Whether the row names it with another ending."""

    def read(self) -> bytes:
        """Return the encoded bytes; `DataError` where the file is missing."""
        if self.data is not None:
            return self.data
        if self.cell is not None:
            return bytes(self.cell.as_py())
        try:
            return (self.path or Path()).read_bytes()
        except OSError as error:
            raise DataError(f"{self.place}: image {self.path} cannot be read ({error.strerror}).") from error

    def open(self) -> Image.Image:
        """Return the picture as RGB; `DataError` where it is missing, corrupt or too large."""
        return self._rgb(upright=True)

    def _rgb(self, *, upright: bool) -> Image.Image:
        data = self.read()
        try:
            return open_rgb(data, upright=upright)
        except DataError as error:
            raise DataError(f"{self.place}: {error}") from error

    def digest(self) -> bytes:
        """Return the sha256 of the encoded bytes; a file's is remembered while it stays as it is."""
        if self.path is None:
            return hashlib.sha256(self.read()).digest()
        try:
            stat = self.path.stat()
            return _file_digest(self.path, stat.st_size, stat.st_mtime_ns)
        except OSError:
            return hashlib.sha256(self.read()).digest()  # names row and file in its error


@cache
def _file_digest(path: Path, size: int, mtime_ns: int) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@dataclass(frozen=True)
class Turn:
    """One question with its answer."""

    question: str
    answer: str
    place: str
    """File and row, for messages."""


@dataclass(frozen=True)
class Example:
    """A training row: one image (or none) and its turns.

    Independent turns each see the image and themselves only; the turns of a chain see all turns before them.
    """

    id: str
    image: ImageSource | None
    turns: tuple[Turn, ...]
    independent: bool = True
    region: str | None = None
    """Which of ViP-LLaVA's region data it belongs to; None for ordinary rows."""
    notes: tuple[str, ...] = ()
    """What the reader had to put right, counted in preflight."""

    @property
    def length(self) -> int:
        """A length that is the same for every tokenizer: characters, and 64 for an image."""
        text = sum(len(turn.question) + len(turn.answer) for turn in self.turns)
        return text + (64 if self.image else 0)


def load_examples(
    paths: Sequence[str | Path], *, split: str = "train", captions: bool = False, bad: BadRows | None = None
) -> list[Example]:
    """Return the examples of dataset folders and of files of conversations, in a fixed order.

    Parameters
    ----------
    paths
        Folders with TASK/SPLIT datasets; or files of conversations, .json (LLaVA), .jsonl (ShareGPT) or .parquet, whose
        pictures lie relative to the file's folder or to its folder `images`; or a folder of parquet files.
    split
        Of the dataset folders; files have none.
    captions
        One caption or description a picture, for the align stage, instead of questions.
    bad
        Gathers the bad rows, for a caller who has more to check; they are left out.

    Raises
    ------
    DataError
        Naming the file and row of each malformed row, empty answer, image token inside the text, or image
        outside its root; an empty split.
    """
    from vlm_backbones.data import _row_files, _task_folders

    rows = BadRows() if bad is None else bad
    examples: list[Example] = []
    for path in map(Path, paths):
        with rows.gather():
            if _row_files.is_row_file(path):
                examples += _row_files.read_rows(path, rows)
            elif path.is_dir():
                examples += _task_folders.read_folder(path, split, rows, captions=captions)
            else:
                raise DataError(
                    f"{path} does not exist: expected a folder of task datasets or a file of conversations."
                )
    for turn in (turn for example in examples for turn in example.turns):
        with rows.gather():
            _check_turn(turn)
    if bad is None:
        rows.refuse()
    if not examples and not rows:
        raise DataError(f"no examples: split {split!r} of {', '.join(map(str, paths)) or 'nothing'} is empty.")
    return examples


def load_training_examples(data: Data, stages: Iterable[str], bad: BadRows | None = None) -> dict[str, list[Example]]:
    """Return the examples of a study's stages by the stage's name; nothing given means the pocket data.

    Stages that name the same files share their examples. `bad` is as in `load_examples`.

    Raises
    ------
    DataError
        As `load_examples`, and for a row of `leave_out` that the data does not hold.
    """
    rows = BadRows() if bad is None else bad
    rows.left_out |= _read_left_out(data.leave_out)
    read: dict[tuple[object, ...], list[Example]] = {}
    found: dict[str, list[Example]] = {}
    for stage in stages:
        files, captions = data.files_for(stage) or [_pocket_data()], stage == "align"
        key = (*files, captions)
        if key not in read:
            read[key] = load_examples(files, captions=captions, bad=rows)
        found[stage] = read[key]
    _refuse_unknown(data.leave_out, rows, found)
    if bad is None:
        rows.refuse()
    return {stage: _without(examples, rows.left_out) for stage, examples in found.items()} if rows.left_out else found


def _refuse_unknown(path: Path | None, rows: BadRows, found: Mapping[str, Sequence[Example]]) -> None:
    if not rows.left_out or rows:
        return
    places = {turn.place for examples in found.values() for example in examples for turn in example.turns}
    unknown = sorted(rows.left_out - places - rows.ignored)
    if unknown:
        raise DataError(
            f"{path}: {len(unknown)} of its rows are not in the training data, the first is {unknown[0]!r}. "
            "The list belongs to other files or folders: run `study check` without it again."
        )


def _pocket_data() -> Path:
    from vlm_backbones.pocket.datasets import data_dir

    return data_dir()


def _read_left_out(path: Path | None) -> set[str]:
    if path is None:
        return set()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.leave_out: {path} cannot be read ({error}).") from error
    return {line for line in lines if line.strip()}


def _without(examples: Sequence[Example], left_out: set[str]) -> list[Example]:
    kept = [
        replace(example, turns=tuple(turn for turn in example.turns if turn.place not in left_out))
        for example in examples
    ]
    return [example for example in kept if example.turns]


def _check_turn(turn: Turn) -> None:
    """Refuse a turn that would train on nothing, smuggles an image token into the text, or is no text."""
    try:
        f"{turn.question}{turn.answer}".encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{turn.place}: {half_character(error)}") from error
    if not turn.answer.strip():
        raise DataError(f"{turn.place}: the answer is empty. Fill it in or drop the row.")
    if IMAGE_TOKEN in turn.question or IMAGE_TOKEN in turn.answer:
        raise DataError(f"{turn.place}: the text holds {IMAGE_TOKEN!r}, the image's token. Remove it.")


def examples_digest(examples: Sequence[Example], order: Iterable[Sequence[int]]) -> str:
    """Return the sha256 of the examples in the order in which the steps see them."""
    rows = [_digest(example) for example in examples]
    total = hashlib.sha256()
    for step in order:
        total.update(b"step")
        for index in step:
            total.update(rows[index])
    return total.hexdigest()


def _digest(example: Example) -> bytes:
    text = repr((example.id, example.independent, [(turn.question, turn.answer) for turn in example.turns]))
    image = example.image.digest() if example.image else b""
    return hashlib.sha256(text.encode() + image).digest()

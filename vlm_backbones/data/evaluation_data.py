"""The test splits of the three tasks, read before anything is trained or asked. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vlm_backbones._study_loading import package_folder
from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data._task_folders import TASKS, image_of, read_rows
from vlm_backbones.data.conversations import IMAGE_TOKEN, ImageSource
from vlm_backbones.errors import DataError
from vlm_backbones.pictures import check_picture
from vlm_backbones.prompts import coordinates_prompt, description_prompt, vqa_prompt

__all__ = ["EVALUATION_SPLIT", "TASKS", "Asked", "asked_questions", "check_test_split"]

EVALUATION_SPLIT = "test"
_BATCH = 256
_FACTS = ("magnitude", "depth_km", "region", "quadrant", "max_intensity")
_COLUMNS = {
    "vqa_scene": ("question", "answers", "options"),
    "seismic_description": ("description", *_FACTS),
    "seismic_coords": ("latitude", "longitude"),
}
_Row = Mapping[str, Any]


class Asked(NamedTuple):
    """A question as it is asked, with file and row."""

    place: str
    question: str
    with_image: bool
    answer_tokens: int = 0
    """How many its task lets an answer take."""


def asked_questions(task: str, folder: Path, name: str = EVALUATION_SPLIT) -> list[Asked]:
    """Return the questions of a split that `check_test_split` has found to be good; no picture is read."""
    import datasets  # type: ignore[import-untyped]

    split, answer_tokens = folder / task / name, _answer_tokens(task)
    if task != "vqa_scene":
        wording = {"seismic_description": description_prompt, "seismic_coords": coordinates_prompt}[task]
        return [Asked(str(split), wording(), with_image=True, answer_tokens=answer_tokens)]
    rows = datasets.load_from_disk(str(split))
    columns = [column for column in ("question", "paraphrase") if column in rows.column_names]
    return [
        Asked(f"{split} row {index}", vqa_prompt(str(row[column])), with_image=True, answer_tokens=answer_tokens)
        for index, row in enumerate(rows.select_columns(columns))
        for column in columns
        if row[column]
    ]


def _answer_tokens(task: str) -> int:
    path = package_folder("vlm_backbones.tasks") / task / f"{task}.yaml"
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # takes no tag for more than text
    return int(content["generation_kwargs"]["max_new_tokens"])


def check_test_split(
    task: str, folder: Path, *, decode: bool, bad: BadRows | None = None, name: str = EVALUATION_SPLIT
) -> None:
    """Read every row of a task's test split and refuse what cannot be asked or scored.

    Parameters
    ----------
    folder
        Of all tasks' datasets: the split is `folder/TASK/test`.
    name
        Of another split that is asked: a sweep chooses by `validation`.
    decode
        Decode every picture; else only its head is read, and broken pixels are found when the row is asked.
    bad
        Gathers the bad rows, for a caller who has more to check; without it they are raised.

    Raises
    ------
    DataError
        If the split, a column or every row is missing; naming all rows with a bad value or picture.
    """
    rows = BadRows() if bad is None else bad
    with rows.gather():
        split = folder / task / name
        if not (split / "state.json").is_file():
            raise DataError(
                f"no dataset of task {task!r} in {split}. Expected a folder saved by datasets.save_to_disk; "
                "build one with `vlm-backbones data import`, or unset VLM_BACKBONES_DATA to use the pocket data."
            )
        found = read_rows(split, _COLUMNS[task], decoded=True)
        _refuse_unreadable(_pictures_of_checked(found, _CHECKS[task], folder, rows), rows, decode=decode)
    if bad is None:
        rows.refuse()


def _pictures_of_checked(
    rows: Iterable[tuple[str, _Row, Any]], check: Callable[[_Row, str], None], root: Path, bad: BadRows
) -> Iterator[ImageSource]:
    """Yield each row's picture after a look at the row's values."""
    for place, row, cell in rows:
        with bad.gather():
            check(row, place)
        with bad.gather():
            yield image_of(cell, place, root)


def _refuse_unreadable(pictures: Iterator[ImageSource], bad: BadRows, *, decode: bool) -> None:
    """Open pictures side by side, a batch at a time: a large split is never in memory whole."""
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(pictures, _BATCH)):
            distinct = {picture.data or picture.path: picture for picture in batch}  # questions share pictures
            whys = pool.map(partial(_why_unreadable, decode=decode), distinct.values())
            found = dict(zip(distinct, whys, strict=True))
            for picture in batch:
                with bad.gather():
                    if why := found[picture.data or picture.path]:
                        raise DataError(f"{picture.place}: {why}")


def _why_unreadable(picture: ImageSource, *, decode: bool) -> str | None:
    try:
        check_picture(picture.data or picture.path or b"", decode=decode)
    except DataError as error:
        return str(error)
    return None


def _check_scene(row: _Row, place: str) -> None:
    question, answers = row["question"], row["answers"]
    if not _is_text(question):
        raise DataError(f"{place}: question is {question!r}; expected a text. Mend or drop the row.")
    for name in ("question", "paraphrase"):
        if IMAGE_TOKEN in str(row.get(name) or ""):
            raise DataError(f"{place}: {name} holds {IMAGE_TOKEN!r}, the image's token. Remove it.")
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{place}: answers is {answers!r}; expected a list of one text or more. Mend or drop the row.")


def _check_description(row: _Row, place: str) -> None:
    if not _is_text(row["description"]):
        raise DataError(f"{place}: description is {row['description']!r}; expected a text. Mend or drop the row.")
    for name in ("magnitude", "depth_km"):  # a fact that is None is not judged
        if row[name] is not None and not (isinstance(row[name], int | float) and math.isfinite(row[name])):
            raise DataError(f"{place}: {name} is {row[name]!r}; expected a number. Mend or drop the row.")


def _check_coordinates(row: _Row, place: str) -> None:
    for name, largest in (("latitude", 90), ("longitude", 180)):
        value = row[name]
        if not isinstance(value, int | float) or not abs(value) <= largest:  # NaN compares false
            raise DataError(
                f"{place}: {name} is {value!r}; expected degrees between -{largest} and {largest}. "
                "Mend or drop the row."
            )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


_CHECKS: dict[str, Callable[[_Row, str], None]] = {
    "vqa_scene": _check_scene,
    "seismic_description": _check_description,
    "seismic_coords": _check_coordinates,
}

"""Dataset folders of the three tasks: rows of one image become one example with independent turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data._pictures import is_address
from vlm_backbones.data.conversations import Example, ImageSource, Turn
from vlm_backbones.errors import DataError
from vlm_backbones.json_text import parse_json
from vlm_backbones.prompts import (
    caption_prompt,
    coordinates_answer,
    coordinates_prompt,
    description_prompt,
    short_questions,
    vqa_prompt,
)

_COLUMNS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "vqa_scene": {"image_id": str, "question": str, "answers": list},
    "seismic_description": {"image_id": str, "description": str},
    "seismic_coords": {"image_id": str, "latitude": (int, float), "longitude": (int, float)},
}
_READ_ALONE = ("magnitude", "depth_km", "max_intensity")
"""The facts of a shake map that are hardest to read: asked one at a time beside the whole description."""
TASKS = ("vqa_scene", "seismic_description", "seismic_coords")


def read_folder(folder: Path, split: str, bad: BadRows, *, captions: bool) -> list[Example]:
    """Return one example an image, in the order of first appearance over the tasks; `bad` gathers the bad rows."""
    tasks = [task for task in TASKS if (folder / task).is_dir()]
    if not tasks:
        raise DataError(f"{folder} holds none of the task datasets: expected {', '.join(TASKS)}.")
    images: dict[str, ImageSource] = {}
    turns: dict[str, list[Turn]] = {}
    for task in tasks:
        for place, row, picture in read_rows(folder / task / split, _COLUMNS[task]):
            with bad.gather():
                _check_columns(row, _COLUMNS[task], place)
                key = str(row["image_id"])
                image = image_of(picture, place, folder)
                _refuse_other_picture(images.setdefault(key, image), image, key)
                collected = turns.setdefault(key, [])
                for question, answer in _captions(task, row, place) if captions else _turns(task, row, place):
                    if not captions or not collected:
                        collected.append(Turn(question, answer, place))
    return [Example(key, images[key], tuple(turns[key])) for key in images if turns[key]]


def read_rows(
    folder: Path, columns: Iterable[str], *, decoded: bool = False
) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Yield each row's place, its columns without the image, and the image's cell.

    Parameters
    ----------
    decoded
        Refuse an image column that `datasets` would not give as pictures.
    """
    import datasets  # type: ignore[import-untyped]

    if not folder.is_dir():
        raise DataError(f"{folder} does not exist: expected a dataset saved with save_to_disk.")
    try:
        dataset = datasets.load_from_disk(str(folder))
        rows = dataset.with_format("arrow")[:] if len(dataset) else None
        if rows is not None:
            rows.select([name for name in rows.column_names if name != "image"]).validate(full=True)
    except IndexError:  # how datasets reads a folder that was saved without rows
        rows = None
    except Exception as error:  # a damaged folder makes datasets and Arrow raise nearly anything
        raise DataError(f"{folder}: cannot be read as a dataset ({error}). Import or copy it again.") from error
    if rows is None:
        raise DataError(f"{folder} is empty: expected at least one row.")
    missing = sorted({"image", *columns} - set(rows.column_names))
    if missing:
        raise DataError(f"{folder}: columns {missing} are missing; it has {rows.column_names}.")
    kind = dataset.features["image"]
    if decoded and not (isinstance(kind, datasets.Image) and kind.decode):
        raise DataError(f"{folder}: column image holds {kind}; expected pictures. Cast it to datasets.Image().")
    pictures = rows.column("image")
    for index, row in enumerate(rows.drop_columns(["image"]).to_pylist()):
        yield f"{folder} row {index}", row, pictures[index].as_py()


def _check_columns(row: Mapping[str, Any], columns: Mapping[str, type | tuple[type, ...]], place: str) -> None:
    for name, kind in columns.items():
        if not isinstance(row[name], kind):
            raise DataError(f"{place}: {name} is {row[name]!r}, which is no {_kind_name(kind)}. Mend or drop the row.")


def _kind_name(kind: type | tuple[type, ...]) -> str:
    if kind is str:
        return "text"
    return "list of texts" if kind is list else "number"


def image_of(cell: Any, place: str, root: Path) -> ImageSource:
    """Return the picture of an image column's cell: its bytes, or a file under `root`, the folder of all tasks.

    `datasets` opens a path by itself when a task is evaluated, and would fetch an address.

    Raises
    ------
    DataError
        If there is no picture, or it is an address or leads out of `root`.
    """
    cell = cell if isinstance(cell, dict) else {}
    if cell.get("bytes"):
        return ImageSource(place, data=cell["bytes"])
    if path := cell.get("path"):
        try:
            inside = (
                isinstance(path, str) and not is_address(path) and Path(path).resolve().is_relative_to(root.resolve())
            )
        except (OSError, ValueError, RuntimeError):  # no file can have such a name, or links run in a circle
            inside = False
        if not inside:
            raise DataError(
                f"{place}: image {str(path)[:200]!r} is no file under {root}. Import or copy the data again."
            )
        return ImageSource(place, path=Path(path))
    raise DataError(f"{place}: the image is missing.")


def _refuse_other_picture(known: ImageSource, found: ImageSource, key: str) -> None:
    if (known.data, known.path) != (found.data, found.path):
        raise DataError(
            f"{found.place}: image_id {key!r} names another picture in {known.place}. Give each picture its own id."
        )


def _turns(task: str, row: Mapping[str, Any], place: str) -> list[tuple[str, str]]:
    if task == "vqa_scene":
        answers = row["answers"] or [""]
        if not all(isinstance(answer, str) for answer in answers):
            raise DataError(f"{place}: answers is {str(answers)[:60]}, expected a list of texts. Mend or drop the row.")
        return [(vqa_prompt(row["question"]), str(Counter(answers).most_common(1)[0][0]))]
    if task == "seismic_coords":
        return [(coordinates_prompt(), coordinates_answer(row["latitude"], row["longitude"]))]
    read = {name: value for name, value in _targets(row, place).items() if name in _READ_ALONE}
    return [(description_prompt(), row["description"]), *short_questions(read)]


def _targets(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    given = row.get("targets")
    if given is not None and not isinstance(given, str):
        raise DataError(f"{place}: column targets is {str(given)[:60]!r}, expected a JSON object as text.")
    try:
        targets = parse_json(given or "{}")
    except ValueError as error:
        raise DataError(f"{place}: column targets is not valid JSON ({error}).") from error
    if not isinstance(targets, dict):
        raise DataError(f"{place}: column targets is {str(targets)[:60]}, expected a JSON object, name -> value.")
    return targets


def _captions(task: str, row: Mapping[str, Any], place: str) -> list[tuple[str, str]]:
    if task == "seismic_description":
        return [(description_prompt(), row["description"])]
    if task == "vqa_scene":
        caption = _targets(row, place).get("caption")
        return [(caption_prompt(), str(caption))] if caption else []
    return []

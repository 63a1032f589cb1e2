"""Where the region tasks find their data: `dataset_path: !function vlm_backbones.tasks.region_data.V7W`.

`VLM_BACKBONES_REGION_DATA` names a folder in the layout of the published downloads; what a task needs of it is written
once into the user's cache, since lmms-eval opens dataset folders. Pictures stay where they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlm_backbones.cache import cache_dir, partial_name
from vlm_backbones.data.region_records import record_generator, region_conversation
from vlm_backbones.errors import DataError, half_character, writing_remedy
from vlm_backbones.json_text import parse_json

__all__ = ["REGION_TASKS", "dataset_dir", "region_root"]

VARIABLE = "VLM_BACKBONES_REGION_DATA"
_VERSION = 1  # of the rows written below
_SHOWN = 5

Rows = Iterator[dict[str, Any]]


def __getattr__(name: str) -> str:
    if name != name.upper() or name.lower() not in REGION_TASKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return str(dataset_dir(name.lower()))


def region_root() -> Path:
    """Return the folder that `VLM_BACKBONES_REGION_DATA` names."""
    given = os.environ.get(VARIABLE)
    if not given:
        raise DataError(
            f"the region tasks need their data: set {VARIABLE}=DIR to a folder with v7w-test.json, "
            "pointQA_twice_test.json, ViP-Bench/ and the pictures they name. See docs/regions.md."
        )
    root = Path(given).expanduser().resolve()
    if not root.is_dir():
        raise DataError(f"{VARIABLE} names {root}, which is no folder.")
    return root


def dataset_dir(task: str) -> Path:
    """Return a folder that `datasets.load_from_disk` opens as a DatasetDict with the split `test`.

    Raises
    ------
    DataError
        If a file is missing or malformed, naming the row, or pictures are missing.
    """
    root = region_root()
    source, read = REGION_TASKS[task]
    files = [root / name for name in source]
    for file in files:
        if not file.is_file():
            raise DataError(f"task {task!r}: no file {file}. Download it into {VARIABLE}: see docs/regions.md.")
    state = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    key = hashlib.sha256(json.dumps([_VERSION, task, state]).encode()).hexdigest()[:16]
    folder = cache_dir() / "region" / f"{task}-{key}"
    rows = list(read(files)) if not folder.is_dir() else None
    if rows is not None:
        _check_pictures(task, rows)
        _save(rows, folder)
    return folder


def _save(rows: list[dict[str, Any]], folder: Path) -> None:
    from datasets import Dataset, DatasetDict

    staged = partial_name(folder)
    try:
        DatasetDict({"test": Dataset.from_list(rows)}).save_to_disk(str(staged))
        staged.rename(folder)
    except UnicodeEncodeError as error:
        raise DataError(f"cannot write {folder}: {half_character(error)}") from error
    except OSError as error:
        if not folder.is_dir():  # else another process of the same run was first
            raise DataError(
                f"cannot write {folder}: {error.strerror or error}. {writing_remedy(error)} "
                "VLM_BACKBONES_CACHE names one."
            ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _check_pictures(task: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        raise DataError(f"task {task!r} has no rows. Download its file again.")
    missing = [path for path in dict.fromkeys(row["image_path"] for row in rows) if not os.path.isfile(path)]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise DataError(f"task {task!r}: pictures are missing: {', '.join(missing[:_SHOWN])}{more}.")


def _inside(root: Path, name: Any, place: str) -> str:
    try:
        path = (root / name).resolve() if isinstance(name, str) else root
    except (OSError, ValueError, RuntimeError):  # no file can have such a name, or links run in a circle
        path = root
    if path == root or not path.is_relative_to(root):
        raise DataError(f"{place}: image {name!r} is no file under {root}.")
    return str(path)


def _json(file: Path, kind: type) -> Any:
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not valid JSON ({error}). Download it again.") from error
    if not isinstance(content, kind):
        raise DataError(f"{file} holds a {type(content).__name__}, expected a {kind.__name__} of rows.")
    return content


def _region_rows(files: list[Path]) -> Rows:
    """Yield the rows of Visual7W and PointQA: question and answer as the models are asked, and the record to draw."""
    (file,) = files
    for index, record in enumerate(_json(file, list)):
        place = f"{file} row {index}"
        if not isinstance(record, dict):
            raise DataError(f"{place} is a {type(record).__name__}, expected an object with id, image and bboxes.")
        question, answer = region_conversation(record, evaluation_generator(record), place=place)
        yield {
            "question_id": str(record["id"]),
            "question": question["value"].removeprefix("<image>\n"),
            "answer": answer["value"],
            "image_path": _inside(file.parent, record.get("image"), place),
            "record": json.dumps(record),
        }


def evaluation_generator(record: dict[str, Any]) -> Any:
    """Return the generator of a record's overlay in evaluation: the same for every model."""
    return record_generator(0, str(record.get("id")))


def _vip_bench_rows(files: list[Path]) -> Rows:
    """Yield ViP-Bench's rows; the marks are in the pictures."""
    meta_file, question_file = files
    meta = _json(meta_file, dict)
    seen = set()
    for number, line in enumerate(question_file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{question_file} line {number}"
        try:
            row = parse_json(line)
            key, text, image = f"v1_{str(row['question_id']).removeprefix('v1_')}", str(row["text"]), row["image"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{place}: expected an object with question_id, image and text ({error!r}).") from error
        facts = meta.get(key)
        if not isinstance(facts, dict) or not isinstance(facts.get("answer"), str):
            raise DataError(f"{place}: {meta_file} has no answer for {key!r}. Both files belong to one download.")
        capability = facts.get("capability") or []
        if not isinstance(capability, list):
            raise DataError(f"{meta_file}: the capability of {key!r} is no list. Download it again.")
        seen.add(key)
        yield {
            "question_id": key,
            "question": text.removeprefix("<image>\n"),
            "answer": facts["answer"],
            "capability": [str(name) for name in capability],
            "image_path": _inside(question_file.parent / "images", image, place),
        }
    if left := sorted(set(meta) - seen):
        raise DataError(f"{question_file} lacks {len(left)} questions of {meta_file}, first {left[0]!r}.")


REGION_TASKS: dict[str, tuple[tuple[str, ...], Callable[[list[Path]], Rows]]] = {
    "v7w": (("v7w-test.json",), _region_rows),
    "pointqa_looktwice": (("pointQA_twice_test.json",), _region_rows),
    "vip_bench_bbox": (("ViP-Bench/vip-bench-meta-data.json", "ViP-Bench/bbox/questions.jsonl"), _vip_bench_rows),
    "vip_bench_human": (("ViP-Bench/vip-bench-meta-data.json", "ViP-Bench/human/questions.jsonl"), _vip_bench_rows),
}
"""Task -> its files under the region folder, and what reads them."""

"""Where a task's YAML finds its dataset: `dataset_path: !function vlm_backbones.tasks.data.VQA_SCENE`.

Each name is resolved when the YAML is loaded, so that `VLM_BACKBONES_DATA` or the pocket data of the user's cache is
found at run time; lmms-eval then opens the folder with `load_from_disk`.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from vlm_backbones.cache import atomic_write_text, cache_dir, scratch_dir
from vlm_backbones.data.evaluation_data import EVALUATION_SPLIT, TASKS, check_test_split
from vlm_backbones.errors import DataError

_SPLITS = ("validation", EVALUATION_SPLIT)
"""What lmms-eval opens: the test split, and what a sweep chooses by."""


def __getattr__(name: str) -> str:
    task = name.lower()
    if name != name.upper() or task not in TASKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return str(dataset_dir(task))


def data_root() -> Path:
    """Return the folder of all tasks' datasets: `VLM_BACKBONES_DATA`, else the pocket data, built on first use."""
    if os.environ.get("VLM_BACKBONES_DATA"):
        return Path(os.environ["VLM_BACKBONES_DATA"]).expanduser().resolve()
    from vlm_backbones.pocket.datasets import data_dir

    return data_dir().resolve()


def dataset_dir(task: str) -> Path:
    """Return a folder that `datasets.load_from_disk` opens as a DatasetDict with the task's test split.

    Raises
    ------
    DataError
        If the test split, every row of it, or a column that the task reads is missing; if a row cannot be asked or
        scored; if the split needs a view, and nothing can be written.
    """
    root = data_root()
    check_test_split(task, root, decode=False)
    folder = root / task
    return folder if (folder / "dataset_dict.json").is_file() else _view(folder)


def _view(folder: Path) -> Path:
    """Return a folder that links to splits saved alone and has the `dataset_dict.json` that they lack.

    It lies in the user's cache, or where that cannot be written (a read-only home) in a folder that ends with the
    process.
    """
    name = f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    with suppress(OSError, DataError):
        return _linked(cache_dir() / "views" / name, folder)
    try:
        return _linked(scratch_dir() / name, folder)
    except OSError as error:
        raise DataError(
            f"cannot write a temporary file: {error.strerror or error}. {folder} holds no dataset_dict.json and is "
            "opened through links: save it as a DatasetDict, or name a folder to write to by TMPDIR."
        ) from error


def _linked(view: Path, folder: Path) -> Path:
    splits = [split for split in _SPLITS if (folder / split / "state.json").is_file()]
    listed, listing = view / "dataset_dict.json", json.dumps({"splits": splits})
    view.mkdir(parents=True, exist_ok=True)
    for link in [view / split for split in splits if not (view / split).exists()]:
        link.unlink(missing_ok=True)
        with suppress(FileExistsError):  # another process of the same run was first
            link.symlink_to(folder / link.name, target_is_directory=True)
    if not listed.is_file() or listed.read_text(encoding="utf-8") != listing:
        atomic_write_text(listed, listing)
    return view

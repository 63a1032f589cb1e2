"""Where a task's YAML finds its dataset: `dataset_path: !function vlm_backbones.tasks.data.VQA_SCENE`.

Each name is resolved when the YAML is loaded, so that `VLM_BACKBONES_DATA` or the pocket data of the user's cache is
found at run time; lmms-eval then opens the folder with `load_from_disk`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlm_backbones.cache import atomic_write_text, cache_dir
from vlm_backbones.errors import DataError

TASK_NAMES = ("vqa_scene", "seismic_description", "seismic_coords")
EVALUATION_SPLIT = "test"
_SHOWN_ROWS = 20
_COLUMNS = {
    "vqa_scene": ("question", "answers"),
    "seismic_description": ("description", "magnitude", "depth_km", "region", "quadrant", "max_intensity"),
    "seismic_coords": ("latitude", "longitude"),
}


def __getattr__(name: str) -> str:
    task = name.lower()
    if name != name.upper() or task not in TASK_NAMES:
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
        If the folder, its test split, every row of it or a column that the task reads is missing.
    """
    folder = data_root() / task
    split = folder / EVALUATION_SPLIT
    if not (split / "state.json").is_file():
        raise DataError(
            f"no dataset of task {task!r} in {split}. Expected a folder saved by datasets.save_to_disk; "
            "build one with `vlm-backbones data import`, or unset VLM_BACKBONES_DATA to use the pocket data."
        )
    _check_split(task, split)
    # A folder of splits without `dataset_dict.json` is opened through a view of links in the user's cache.
    return folder if (folder / "dataset_dict.json").is_file() else _view(folder, split)


def _check_split(task: str, split: Path) -> None:
    from datasets import load_from_disk

    # A split saved without rows has no data file at all, and `datasets` cannot open it.
    files = json.loads((split / "state.json").read_text(encoding="utf-8")).get("_data_files")
    rows: Any = load_from_disk(str(split)) if files else []
    if len(rows) == 0:
        raise DataError(f"the {EVALUATION_SPLIT} split of task {task!r} in {split} is empty. Import some rows first.")
    missing = sorted({"image", *_COLUMNS[task]} - set(rows.column_names))
    if missing:
        raise DataError(f"task {task!r}: columns {missing} are missing in {split}; it has {rows.column_names}.")
    bad = _unreadable_images(rows)
    if bad:
        more = f" and {len(bad) - _SHOWN_ROWS} more" if len(bad) > _SHOWN_ROWS else ""
        raise DataError(
            f"task {task!r}: no readable image in {split}, rows {bad[:_SHOWN_ROWS]}{more}. "
            "Replace them or drop the rows."
        )


def _unreadable_images(rows: Any) -> list[int]:
    """Return the rows whose image has no readable head; broken pixels are found when the image is answered."""
    from datasets import Image
    from PIL import Image as PILImage

    bad = []
    for index, cell in enumerate(rows.cast_column("image", Image(decode=False))["image"]):
        data, path = (cell or {}).get("bytes"), (cell or {}).get("path")
        try:
            with PILImage.open(io.BytesIO(data) if data else path or ""):
                pass
        except (OSError, ValueError, SyntaxError):
            bad.append(index)
    return bad


def _view(folder: Path, split: Path) -> Path:
    view = cache_dir() / "views" / f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    view.mkdir(parents=True, exist_ok=True)
    link = view / EVALUATION_SPLIT
    if not link.exists():
        link.unlink(missing_ok=True)
        with suppress(FileExistsError):  # another process of the same run was first
            link.symlink_to(split, target_is_directory=True)
    atomic_write_text(view / "dataset_dict.json", json.dumps({"splits": [EVALUATION_SPLIT]}))
    return view

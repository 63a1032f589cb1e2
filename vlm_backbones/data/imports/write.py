"""A split of one of the tasks: rows into OUT/TASK/SPLIT, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlm_backbones.cache import partial_name
from vlm_backbones.errors import DataError, half_character, writing_remedy

__all__ = ["features_of", "refuse_existing", "save_split"]

_ROWS_IN_MEMORY = 64


def refuse_existing(out: Path, task: str, split: str) -> Path:
    """Return OUT/TASK/SPLIT; `DataError` where it exists."""
    folder = out / task / split
    if folder.exists():
        raise DataError(f"{folder} exists already. Name another OUT or --split.")
    return folder


def features_of(kinds: Mapping[str, str]) -> Any:
    """Return the features of a dataset: column -> image, text, texts or number."""
    import datasets

    known = {
        "image": datasets.Image(),
        "text": datasets.Value("string"),
        "texts": datasets.List(datasets.Value("string")),
        "number": datasets.Value("float64"),
    }
    return datasets.Features({name: known[kind] for name, kind in kinds.items()})


def save_split(folder: Path, rows: Iterable[Mapping[str, Any]], kinds: Mapping[str, str]) -> int:
    """Write rows as `datasets.save_to_disk` does and return how many; pictures are stored in the dataset.

    `kinds` as of `features_of`. Rows are written one after another, so that they never lie in memory together.
    """
    from datasets import Dataset
    from datasets.arrow_writer import ArrowWriter

    staged = partial_name(folder)
    try:
        staged.mkdir(parents=True)
        with ArrowWriter(
            path=str(staged / "rows.arrow"), features=features_of(kinds), writer_batch_size=_ROWS_IN_MEMORY
        ) as writer:
            for row in rows:
                writer.write(dict(row))
            count, _ = writer.finalize()
        Dataset.from_file(str(staged / "rows.arrow")).save_to_disk(str(staged / "split"))
        (staged / "split").rename(folder)
    except UnicodeEncodeError as error:
        raise DataError(f"cannot write {folder}: {half_character(error)}") from error
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}. {writing_remedy(error)}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return int(count)

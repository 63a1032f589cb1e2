"""Rows of lmms-eval's datasets; a picture that several questions share is decoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from datasets import Image

__all__ = ["DatasetRows"]

KEPT_PICTURES = 64


class DatasetRows:
    """Reads rows as the datasets give them; the latest pictures are kept decoded."""

    def __init__(self, datasets: Mapping[str, Any]) -> None:
        self.datasets = datasets
        self._encoded: dict[tuple[str, str], tuple[Any, list[str]]] = {}
        self._pictures: OrderedDict[bytes, Any] = OrderedDict()

    def all(self, task: str, split: str) -> Any:
        """Return a split's own dataset."""
        return self.datasets[task][split]

    def read(self, task: str, split: str, doc_id: int) -> dict[str, Any]:
        """Return one row with its pictures decoded."""
        if (task, split) not in self._encoded:
            self._encoded[task, split] = _without_decoding(self.all(task, split))
        rows, columns = self._encoded[task, split]
        row: dict[str, Any] = rows[doc_id]
        for column in columns:
            if row[column] is not None:
                row[column] = self._decoded(row[column])
        return row

    def _decoded(self, cell: dict[str, Any]) -> Any:
        key = cell.get("bytes")
        if not key:  # a file beside the dataset
            return Image().decode_example(cell)
        if key not in self._pictures:
            self._pictures[key] = Image().decode_example(cell)
        self._pictures.move_to_end(key)
        while len(self._pictures) > KEPT_PICTURES:
            self._pictures.popitem(last=False)
        return self._pictures[key].copy()  # a task may draw on it


def _without_decoding(dataset: Any) -> tuple[Any, list[str]]:
    """Return the dataset with its pictures as bytes, and their columns; other kinds of dataset as they are."""
    features = getattr(dataset, "features", None) or {}
    columns = [name for name, kind in features.items() if isinstance(kind, Image) and kind.decode]
    for column in columns:
        dataset = dataset.cast_column(column, Image(decode=False))
    return dataset, columns

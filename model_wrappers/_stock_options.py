"""The options of stock lmms-eval tasks, so that their answers get log-probabilities per option."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlm_backbones.errors import ConfigError

__all__ = ["options_of"]

Doc = Mapping[str, Any]


def _yes_no(doc: Doc) -> list[str]:
    return ["Yes", "No"]


def _scienceqa(doc: Doc) -> list[str]:
    return [chr(ord("A") + index) for index in range(len(doc.get("choices") or []))]


def _mmbench(doc: Doc) -> list[str]:
    return [letter for letter in "ABCDE" if _is_text(doc.get(letter))]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() not in {"", "nan", "none"}


# By the first word of the task's name; MME is one task, and other tasks share its first word.
_STOCK: Mapping[str, Callable[[Doc], list[str]]] = {
    "pope": _yes_no,
    "mme": _yes_no,
    "mmbench": _mmbench,
    "scienceqa": _scienceqa,
}


def options_of(task: str, doc: Doc, score_options: str | Sequence[str] | None) -> list[str]:
    """Return the options of a document, empty where it has none.

    Parameters
    ----------
    score_options
        From the task's `generation_kwargs`: a column of the dataset, or the options themselves.

    Raises
    ------
    ConfigError
        If the column does not exist.
    """
    if score_options is None:
        family = task if task.startswith("mme") else task.split("_")[0]
        return _STOCK[family](doc) if family in _STOCK else []
    if not isinstance(score_options, str):
        return [str(option) for option in score_options]
    if score_options not in doc:
        raise ConfigError(f"task {task!r} has score_options: {score_options}, but its rows have no such column.")
    return [str(option) for option in doc[score_options] or []]

"""A study's mapping as a validated `Study`, or all its problems in one message. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from vlm_backbones._names import known_backbones, known_tasks, known_vision_towers
from vlm_backbones._registry import split_revision
from vlm_backbones._study_loading import is_path, shipped_recipes
from vlm_backbones.errors import ConfigError, nearest
from vlm_backbones.study import Study

__all__ = ["validate_study"]


def validate_study(content: Mapping[str, Any], *, source: str, overrides: Sequence[str] = ()) -> Study:
    """Return the validated study, or raise one ConfigError with every problem found.

    Parameters
    ----------
    source
        The study's file, for the message.
    overrides
        What was changed of it, `key=value`: a problem of theirs names them, not the file.
    """
    problems: list[_Problem] = []
    study = None
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        found = {_describe(row) for row in error.errors() if not _is_other_branch(row)}
        problems += sorted(found, key=lambda problem: problem.text)
    problems += _unknown_ids(content)
    if problems or study is None:
        raise ConfigError(_message(problems, source, overrides))
    return study


class _Problem(NamedTuple):
    """What is wrong, and at which keys of the study, outermost first; none where it is between several."""

    place: tuple[str, ...]
    text: str

    def is_of(self, override: str) -> bool:
        """Whether an override `key=value` lies at, above or below the place."""
        key = tuple(override.partition("=")[0].strip().split("."))
        if not self.place:
            return f"'{key[0]}" in self.text
        return all(own == other for own, other in zip(self.place, key, strict=False))


def _message(problems: Sequence[_Problem], source: str, overrides: Sequence[str]) -> str:
    blamed = [next((override for override in overrides if problem.is_of(override)), None) for problem in problems]
    lines = [
        problem.text if override is None else f"--set {override}: {problem.text}"
        for problem, override in zip(problems, blamed, strict=True)
    ]
    if len(lines) == 1 and blamed[0] is not None:
        return lines[0]
    listed = "".join(f"\n  - {line}" for line in lines)
    return f"{source}: {len(lines)} problem{'s' * (len(lines) > 1)}{listed}"


def _is_other_branch(row: Any) -> bool:
    """`finetune` is one stage or a list of stages: of the two readings only the one meant is worth a message."""
    return "finetune" in row["loc"] and (
        (row["type"] == "list_type" and isinstance(row["input"], dict))
        or (row["type"] == "model_type" and isinstance(row["input"], list))
    )


def _describe(row: Any) -> _Problem:
    place = [str(part) for part in row["loc"] if part not in {"StageRecipe", "Lora", "function-after[_one_length()"}]
    place = [part for part in place if not part.startswith(("list[", "function-after", "constrained-"))]
    return _Problem(tuple(place), _text(row, place))


def _text(row: Any, place: Sequence[str]) -> str:
    key = ".".join(place)
    if row["type"] == "extra_forbidden":
        return f"unknown key {key!r}.{nearest(place[-1], _known_keys(place[:-1]))}"
    if row["type"] == "missing":
        return f"missing key {key!r}"
    if key == "recipe" and isinstance(row["input"], str):
        return f"recipe: unknown recipe {row['input']!r}.{nearest(row['input'], shipped_recipes())}"
    message = str(row["msg"]).removeprefix("Value error, ")
    found = "" if row["type"] == "value_error" else f" (found {row['input']!r})"
    return f"{key}: {message}{found}" if key else f"{message}{found}"


def _known_keys(place: Sequence[str]) -> list[str]:
    """Return the keys allowed at a place of the study, by walking the models' annotations."""
    models: list[type[BaseModel]] = [Study]
    for part in place:
        fields = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        inner = [found for annotation in fields for found in _models_in(annotation)]
        models = inner or models if part.isdigit() or inner else []
    return [name for model in models for name in model.model_fields]


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _unknown_ids(content: Mapping[str, Any]) -> list[_Problem]:
    backbones = _strings(content.get("backbones"))
    towers = [tower] if isinstance(tower := content.get("vision_tower"), str) else []
    problems = []
    for key, names, known in (
        ("backbones", backbones, known_backbones()),
        ("vision_tower", towers, known_vision_towers()),
    ):
        for name in names:
            if is_path(name) and not os.path.isdir(name):
                problems.append(_Problem((key,), f"{key}: no folder {name}"))
            elif not is_path(name) and known and split_revision(name)[0] not in known:
                text = f"{key}: unknown id {name!r}.{nearest(name, known)} A folder needs a slash in it."
                problems.append(_Problem((key,), text))
    tasks = _strings(content.get("tasks"))
    known = known_tasks(tasks, [Path(path) for path in _strings(content.get("task_paths"))])
    unknown = [name for name in tasks if name not in known]
    return problems + [_Problem(("tasks",), f"tasks: unknown task {name!r}.{nearest(name, known)}") for name in unknown]


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

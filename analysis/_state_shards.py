"""One file of hidden states, checked before it is read: whatever is wrong with it is one error."""

from __future__ import annotations

__all__ = ["AGAIN", "ShardHeader", "opened", "read_header"]

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vlm_backbones.errors import LogError
from vlm_backbones.json_text import parse_json

AGAIN = "Delete it and evaluate again: a study does so by its next `study run`."
_MOST_LAYERS = 10_000


@dataclass(frozen=True)
class ShardHeader:
    """What the shards of one task must have in common; `task` and `condition` are None where a shard does not say."""

    layers: tuple[int, ...]
    token_types: tuple[str, ...]
    hidden: int
    task: str | None
    condition: str | None
    others: str
    """The other facts of the header, the checkpoint among them."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Yield a file of tensors; LogError where it cannot be read."""
    try:
        with safe_open(path, framework="numpy") as shard:
            yield shard
    except (SafetensorError, OSError, ValueError, TypeError) as error:  # what damaged files make the reader raise
        raise LogError(f"{path} cannot be read ({error}). {AGAIN}") from error


def read_header(path: Path) -> ShardHeader:
    """Return what a shard says about itself.

    Raises
    ------
    LogError
        If it cannot be read, or its tensors are not those of the layers and kinds of token that it names.
    """
    with opened(path) as shard:
        facts = {name: parse_json(value) for name, value in (shard.metadata() or {}).items()}
        layers, token_types = (facts.pop(name, None) for name in ("layers", "token_types"))
        if layers is None or token_types is None:
            raise LogError(f"{path} is no file of hidden states: layers and token_types are missing in its header.")
        problem = _names_problem(layers, token_types) or _tensors_problem(shard, (len(layers), len(token_types)))
        if problem:
            raise LogError(f"{path} is no intact file of hidden states: {problem}. {AGAIN}")
        hidden = int(shard.get_slice("states").get_shape()[3])
    task, condition = (facts.pop(name, None) for name in ("task", "condition"))
    return ShardHeader(
        tuple(layers),
        tuple(token_types),
        hidden,
        None if task is None else str(task),
        None if condition is None else str(condition),
        repr(sorted(facts.items())),
    )


def _names_problem(layers: object, token_types: object) -> str:
    for name, values, kind in (("layers", layers, int), ("token_types", token_types, str)):
        plain = isinstance(values, list) and values and all(_is_plain(value, kind) for value in values)
        if not plain or len(set(values)) != len(values):  # type: ignore[arg-type,call-overload]
            return f"its header's {name} are {str(values)[:80]!r}, expected different {kind.__name__}s in a list"
    numbers: Any = layers
    wrong = next((number for number in numbers if not 0 <= number < _MOST_LAYERS), None)
    return "" if wrong is None else f"its header names layer {str(wrong)[:40]}"


def _is_plain(value: object, kind: type) -> bool:
    """Whether a value is of just this type and, of a text, can stand in a table."""
    return type(value) is kind and (not isinstance(value, str) or value.isprintable())


def _tensors_problem(shard: Any, kept: tuple[int, int]) -> str:
    """Return what is wrong with the tensors for so many layers and kinds of token; empty where nothing is."""
    missing = sorted({"states", "scales", "doc_key"} - set(shard.keys()))
    if missing:
        return f"it has no {' and no '.join(missing)}"
    slices = {name: shard.get_slice(name) for name in ("states", "scales", "doc_key")}
    shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    count = shapes["states"][0] if shapes["states"] else 0
    good = shapes["states"][:3] == (count, *kept) and len(shapes["states"]) == 4 and shapes["states"][3] > 0
    good = good and shapes["scales"] == (count, *kept) and len(shapes["doc_key"]) == 2 and shapes["doc_key"][0] == count
    if not good or count == 0 or shapes["doc_key"][1] == 0:
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        return (
            f"{found}; expected (documents, {kept[0]} layers, {kept[1]} kinds of token, hidden) states and their keys"
        )
    kinds = {name: part.get_dtype() for name, part in slices.items()}
    if kinds["states"] not in ("F16", "F32") or kinds["scales"] != "F32" or kinds["doc_key"] != "U8":
        return f"its tensors are {kinds}, expected F16 or F32 states, F32 scales and U8 keys"
    return ""

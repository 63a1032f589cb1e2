"""What lmms-eval's `*_results.json` files say: one aggregate a task and metric."""

from __future__ import annotations

__all__ = ["Aggregate", "Results", "find_results", "read_results"]

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_backbones.analysis._folders import files_below
from vlm_backbones.analysis.leaderboard.claimed import visible
from vlm_backbones.errors import LogError
from vlm_backbones.json_text import parse_json

_CONDITION = re.compile(r"(?:^|,)condition=(\w+)")
_PRETRAINED = re.compile(r"(?:^|,)pretrained=([^,]+)")


@dataclass(frozen=True)
class Aggregate:
    """One number of one task; `is_mean` where lmms-eval averaged the questions' scores."""

    task: str
    metric: str
    value: float
    n: int | None
    is_mean: bool
    higher_is_better: bool | None


@dataclass(frozen=True)
class Results:
    """One results file. `condition` is None where the model's arguments name none."""

    path: Path
    model: str
    checkpoint: str
    condition: str | None
    aggregates: list[Aggregate]


def find_results(root: Path) -> list[Path]:
    """Every results file at or under a path, in a stable order."""
    if root.is_file():
        return [root]
    return files_below(root, "*results.json")


def read_results(path: Path) -> Results | None:
    """Read a results file of lmms-eval 0.4 to 0.7; None where a file of that name is another tool's.

    Groups are left out: their tasks stand for themselves.

    Raises
    ------
    LogError
        If the file cannot be read or is not valid JSON.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LogError(f"{path} is not readable JSON ({error}). Evaluate again, or remove the file.") from error
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict) or "configs" not in content:
        return None
    config = _mapping(content.get("config"))
    arguments = config.get("model_args")
    if isinstance(arguments, Mapping):
        arguments = ",".join(f"{key}={value}" for key, value in arguments.items())
    arguments = str(arguments or "")
    condition, pretrained = _CONDITION.search(arguments), _PRETRAINED.search(arguments)
    groups = {name for name, tasks in _mapping(content.get("group_subtasks")).items() if tasks}
    return Results(
        path,
        visible(str(config.get("model") or "")),
        _short(pretrained[1]) if pretrained else "",
        condition[1] if condition else None,
        [one for task in content["results"] if task not in groups for one in _aggregates(content, task)],
    )


def _aggregates(content: Mapping[str, Any], task: str) -> list[Aggregate]:
    samples = _mapping(_mapping(content.get("n-samples")).get(task))
    n = samples.get("effective", samples.get("original"))
    better = _mapping(_mapping(content.get("higher_is_better")).get(task))
    listed = _mapping(_mapping(content["configs"]).get(task)).get("metric_list")
    metrics = [row for row in listed if isinstance(row, Mapping)] if isinstance(listed, list) else []
    how = {str(row.get("metric")): str(row.get("aggregation")) for row in metrics}
    found: dict[str, Aggregate] = {}
    for key, value in _mapping(content["results"][task]).items():
        metric = key.partition(",")[0]
        if not _is_number(value) or "_stderr" in metric or metric in found:
            continue
        mean = re.match(r"mean$|<function mean at ", how.get(metric, "")) is not None
        higher = better.get(metric)
        known = higher if isinstance(higher, bool) else None
        found[metric] = Aggregate(task, metric, float(value), n if _is_count(n) else None, mean, known)
    return list(found.values())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**12


def _short(checkpoint: str) -> str:
    """A hub id as it is; of a local path the last two parts, as lmms-eval names its folders."""
    return visible("/".join(Path(checkpoint).parts[-2:]).removeprefix("//"))

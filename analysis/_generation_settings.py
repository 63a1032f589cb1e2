"""Were the runs of a task asked alike? Generation settings, as lmms-eval keeps them in the results beside its logs."""

from __future__ import annotations

__all__ = ["unlike_settings"]

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vlm_backbones.analysis.log_files import LogFile
from vlm_backbones.json_text import parse_json

_LONGEST = 60
_NONE = "none"


def unlike_settings(logs: Iterable[tuple[LogFile, str]]) -> list[str]:
    """Name each task whose runs were asked with other settings; what no file tells is not compared.

    Parameters
    ----------
    logs
        Those that count, with the condition of their samples.
    """
    read = functools.cache(_configs)  # one file tells of many tasks
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for log, condition in logs:
        settings = _settings(log, read)
        if settings is not None:
            found.setdefault((log.task, condition), {})[log.run] = settings
    return [
        f"{task}{'' if condition == 'clean' else f' under {condition}'}: the runs were asked with other generation "
        f"settings, which are no property of the models: {said}. Evaluate them alike."
        for (task, condition), runs in found.items()
        if (said := _differences(runs))
    ]


def _differences(runs: Mapping[str, Mapping[str, Any]]) -> str:
    names = dict.fromkeys(name for settings in runs.values() for name in settings)
    unlike = [name for name in names if len({_text(settings.get(name)) for settings in runs.values()}) > 1]
    if not unlike:
        return ""
    return "; ".join(
        f"{run} {', '.join(f'{name}={_text(settings.get(name))[:_LONGEST]}' for name in unlike)}"
        for run, settings in runs.items()
    )


def _text(value: Any) -> str:
    return _NONE if value is None else json.dumps(value, sort_keys=True, default=str)


def _settings(log: LogFile, read: Callable[[Path], Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the settings with which a log's questions were asked; None where its evaluation's results tell none."""
    if not log.stamp:
        return None
    for name in (f"{log.stamp}_results.json", f"results_{log.stamp}.json"):
        task = read(log.path.parent / name).get(log.task)
        settings = task.get("generation_kwargs") if isinstance(task, Mapping) else None
        if isinstance(settings, Mapping):
            return {str(key): value for key, value in settings.items()}
    return None


def _configs(path: Path) -> Mapping[str, Any]:
    """Return what a results file says of each task; nothing where it is missing, or is no such file."""
    if not path.is_file():  # a pipe would be waited for, a device never end
        return {}
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the samples are read without it; the leaderboard says what is wrong with it
        return {}
    configs = content.get("configs") if isinstance(content, Mapping) else None
    return configs if isinstance(configs, Mapping) else {}

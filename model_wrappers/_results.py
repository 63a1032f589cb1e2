"""lmms-eval lists every key of a task's `process_results` among the results, metric or not: ours that is a record for
the analysis, and no metric, would stand there as an empty list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlm_backbones.model_wrappers._wrapping import wrap_once

__all__ = ["install"]

_RECORD = "backbones"


def install() -> None:
    """Let `TaskOutput.calculate_aggregate_metric` forget our record; the samples keep it."""
    from lmms_eval.evaluator_utils import TaskOutput

    wrap_once(TaskOutput, "calculate_aggregate_metric", _without_record)


def _without_record(original: Callable[..., None], task: Any, *arguments: Any, **options: Any) -> None:
    for key in [key for key in task.sample_metrics if key[0] == _RECORD]:
        del task.sample_metrics[key]
    original(task, *arguments, **options)

"""lmms-eval lists every key of a task's `process_results` among the results, metric or not: ours that is a record for
the analysis, and no metric, would stand there as an empty list."""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["install"]

_MARK = "_vlm_backbones"
_RECORD = "backbones"


def install() -> None:
    """Wrap `TaskOutput.calculate_aggregate_metric` once, so that it forgets our record; the samples keep it."""
    from lmms_eval.evaluator_utils import TaskOutput

    original = TaskOutput.calculate_aggregate_metric
    if getattr(original, _MARK, False):
        return

    @functools.wraps(original)
    def calculate(self: Any, *arguments: Any, **options: Any) -> None:
        for key in [key for key in self.sample_metrics if key[0] == _RECORD]:
            del self.sample_metrics[key]
        original(self, *arguments, **options)

    setattr(calculate, _MARK, True)
    TaskOutput.calculate_aggregate_metric = calculate

"""Which keys of logged samples are metrics, and which of them is the score."""

from __future__ import annotations

__all__ = ["Keys", "keys_of", "lower_is_better", "score_at", "score_of"]

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vlm_backbones.analysis._aggregates import shown_name
from vlm_backbones.analysis._computed_scores import computed_score
from vlm_backbones.analysis._option_column import Options
from vlm_backbones.analysis._values import Record, judgement, lookup, number

_NOT_METRICS = frozenset(
    [
        "doc_id",
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "token_counts",
        "doc_hash",
        "input",
        "input_media",
        "backbones",
        "question_id",
        "index",
        "id",
        "idx",
        "image_id",
        "category",
        "question_type",
        "split",
        "filter",
        "prompt_hash",
        "target_hash",
    ]
)
# Names under which tasks log correctness, the most telling first.
_KNOWN = [
    "acc",
    "exact_match",
    "accuracy",
    "vqa_accuracy",
    "anls",
    "relaxed_overall",
    "relaxed_accuracy",
    "mmmu_acc",
    "pope_accuracy",
    "mme_perception_score",
    "mme_cognition_score",
    "gqa_acc",
    "score",
    "gpt_eval_score",
    "average",
    "submission",
]
_SUFFIX = re.compile(r"(acc|accuracy|score|match|correct|anls)$")


_LOWER = re.compile(
    r"(^|[_.])(wer|cer|per|ter|mer|mae|mse|rmse|ece|nll|ppl|perplexity|loss|errors?|error_rate|error_km|err|"
    r"(edit_)?distance|hallucinated_facts|hallucination_rate|chairs?|chair_[is])$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Keys:
    """`metrics`: the keys that may hold one; `scores`: those of them that name correctness, the most telling first."""

    metrics: tuple[str, ...]
    scores: tuple[str, ...]


@lru_cache(maxsize=1024)
def keys_of(names: tuple[str, ...]) -> Keys:
    """Sort the keys of a sample."""
    metrics = [name for name in names if name not in _NOT_METRICS and not name.endswith(("_id", "_index"))]
    known = [name for name in _KNOWN if name in metrics]
    return Keys(tuple(metrics), (*known, *(name for name in metrics if _SUFFIX.search(name))))


def lower_is_better(metric: str) -> bool:
    """Whether a metric of this name is an error: the smaller, the better.

    Examples
    --------
    >>> lower_is_better("wer"), lower_is_better("error_km"), lower_is_better("answer")
    (True, True, False)
    """
    return _LOWER.search(metric) is not None


def score_at(record: Record, key: str) -> float | None:
    """The score under the key that the user names; dots step into mappings."""
    value = lookup(record, key)
    return judgement(value) if isinstance(value, dict) else number(value)


def score_of(
    record: Record, ours: Mapping[str, Any], metrics: Mapping[str, float | None], answer: str, options: Options
) -> tuple[float | None, str | None]:
    """A sample's score and the name of what gave it; `metrics` are those that name correctness, the best first."""
    if "score" in ours:
        return number(ours["score"]), "backbones.score"
    for name, value in metrics.items():
        if value is not None:
            return (None if math.isnan(value) else value), shown_name(name)
    score, how = computed_score(record, answer, options)
    # A key that is there and empty says which score is missing.
    return score, how or next((name for name in metrics if record[name] is None), None)

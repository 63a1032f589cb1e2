"""One logged sample of lmms-eval -> one row: answer, options, score, confidence."""

from __future__ import annotations

__all__ = ["HEADLINE", "LOWER_IS_BETTER", "Cluster", "parse_cluster_key", "parse_record"]

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from vlm_backbones.errors import ConfigError

Record = Mapping[str, Any]
Cluster = Callable[[Record], str | None]

HEADLINE = {
    "vqa_scene": "vqa_accuracy",
    "seismic_description": "fact_score",
    "seismic_coords": "within_100_km",
}
LOWER_IS_BETTER = frozenset({"error_km", "hallucinated_facts"})

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
    "submission",
]
_SUFFIX = re.compile(r"(acc|accuracy|score|match|correct|anls)$")
_LETTER = re.compile(r"^\W*(?:(?:the )?answer(?: is)?\W*)?\(?([A-H])(?:[).:,\s]|$)", re.IGNORECASE)


def parse_cluster_key(expression: str) -> Cluster:
    """Build the function behind `--cluster-key`: a key of the sample, or key%N, or key//N.

    Examples
    --------
    >>> parse_cluster_key("question_id%1000000")({"question_id": 3000241})
    '241'
    """
    match = re.fullmatch(r"\s*([A-Za-z_][\w.]*)\s*(?:(%|//)\s*(\d+))?\s*", expression)
    if match is None or match[3] == "0":
        raise ConfigError(
            f"--cluster-key {expression!r} is not KEY, KEY%NUMBER or KEY//NUMBER, as question_id%1000000."
        )
    key, operator, number = match[1], match[2], int(match[3] or 1)

    def cluster(record: Record) -> str | None:
        value = lookup(record, key)
        if value is None or operator is None:
            return None if value is None else str(value)
        try:
            whole = int(value)
        except (TypeError, ValueError):
            raise ConfigError(f"--cluster-key {expression!r}: {key} is {value!r}, not a whole number.") from None
        return str(whole % number if operator == "%" else whole // number)

    return cluster


def lookup(record: Record, key: str) -> Any:
    """Return record[key], where a dot steps into a mapping; None where there is none."""
    value: Any = record
    if key in record:
        return record[key]
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def parse_record(
    record: Record, score_key: str | None, cluster: Cluster | None
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the row of a sample (without run and task) and its metrics, name -> value."""
    logged = record.get("backbones")
    ours: Record = logged if isinstance(logged, Mapping) else {}
    extras = _extras(record)
    answer, options = _response(record)
    options = _options(extras) or options
    metrics = _metrics(record)
    parsed = ours.get("parsed") if ours else (answer.strip() or None)
    score, headline = _score(record, ours, metrics, score_key, answer, options)
    option_confidence = _option_confidence(options, parsed)
    sequence, per_token = _answer_confidence(extras)
    confidence = option_confidence if options else sequence
    key = extras.get("image_key")
    row = {
        "condition": _text(extras.get("condition")),
        "doc_id": _text(record.get("doc_id")),
        "doc_key": _text(extras.get("doc_key")),
        "cluster": cluster(record) if cluster else _text(extras.get("cluster") or key),
        "question": _text(record.get("input")) or "",
        "target": _text(record.get("target")) or "",
        "answer": _text(answer),
        "parsed": _text(parsed),
        "score": score,
        "correct": None if score is None else score >= 0.5,
        "confidence": confidence,
        "confidence_kind": None if confidence is None else ("option" if options else "sequence"),
        "option_logprobs": [{"option": _text(name), "logprob": value} for name, value in options.items()] or None,
        "image_key": _text(key),
        "question_type": _text(ours.get("question_type") or _category(record)),
        "frame": _text(ours.get("frame")),
        "targets": _text(ours.get("targets")),
        "sequence_confidence": sequence,
        "per_token_confidence": per_token,
        "headline": headline,
    }
    return row, metrics


def _extras(record: Record) -> Mapping[str, Any]:
    """The wrapper's own record; other models log token counts there, or nothing."""
    counts = record.get("token_counts")
    first = counts[0] if isinstance(counts, list) and counts else counts
    extras = first.get("reasoning_tokens") if isinstance(first, Mapping) else None
    return extras if isinstance(extras, Mapping) else {}


def _response(record: Record) -> tuple[str, dict[str, float | None]]:
    """Answer text, and the options' log-probabilities where the log is a multiple-choice one."""
    response = record.get("filtered_resps", record.get("resps"))
    pairs = [response] if _is_choice(response) else response
    if isinstance(pairs, list) and pairs and all(_is_choice(pair) for pair in pairs):
        options: dict[str, float | None] = {str(i): _number(pair[0]) for i, pair in enumerate(pairs)}
        known = {name: value for name, value in options.items() if value is not None}
        return (max(known, key=known.__getitem__) if known else ""), options
    while isinstance(response, list):
        response = response[0] if response else ""
    if isinstance(response, Mapping):
        response = response.get("text", response.get("prediction", json.dumps(response)))
    return ("" if response is None else str(response)), {}


def _is_choice(pair: Any) -> bool:
    if not (isinstance(pair, list) and len(pair) == 2 and str(pair[1]) in ("True", "False")):
        return False
    return _number(pair[0], finite=False) is not None


def _options(extras: Mapping[str, Any]) -> dict[str, float | None]:
    options = extras.get("option_logprobs")
    return {str(name): _number(value) for name, value in options.items()} if isinstance(options, Mapping) else {}


def _number(value: Any, finite: bool = True) -> float | None:
    """A finite float from a number, a bool or the string that lmms-eval makes of np.float32; else None."""
    if isinstance(value, (bool, int, float, str)):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return number if math.isfinite(number) or not finite else None
    return None


def _metrics(record: Record) -> dict[str, float]:
    metrics = {}
    for name, value in record.items():
        if name in _NOT_METRICS or name.endswith(("_id", "_index")):
            continue
        number = _number(value.get("score")) if isinstance(value, Mapping) else _metric_number(value)
        if number is not None:
            metrics[name] = number
    return metrics


def _metric_number(value: Any) -> float | None:
    """NaN stays NaN: the metric exists and has no value for this sample (as error_km of an unparsed answer)."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return _number(value, finite=False) if not isinstance(value, str) or _looks_numeric(value) else None


def _looks_numeric(text: str) -> bool:
    return bool(re.fullmatch(r"\s*(?:[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?|nan)\s*", text))


def _score(
    record: Record,
    ours: Mapping[str, Any],
    metrics: Mapping[str, float],
    score_key: str | None,
    answer: str,
    options: Mapping[str, float | None],
) -> tuple[float | None, str | None]:
    """The sample's score and the name of what gave it."""
    if score_key is not None:
        value = lookup(record, score_key)
        return _number(value.get("score") if isinstance(value, Mapping) else value), score_key
    if ours and "score" in ours:
        return _number(ours["score"]), "backbones.score"
    for name in (*_KNOWN, *(name for name in metrics if _SUFFIX.search(name))):
        if name in metrics:
            return (None if math.isnan(metrics[name]) else metrics[name]), name
    return _computed_score(record, answer, options)


def _computed_score(
    record: Record, answer: str, options: Mapping[str, float | None]
) -> tuple[float | None, str | None]:
    """Correctness from target and answer, only where both are an option: its number or its letter."""
    target = str(record.get("target", "")).strip()
    if options and target in options:
        return float(answer == target), "computed: most probable option = target"
    for value in record.values():
        if isinstance(value, Mapping) and isinstance(value.get("answer"), str) and "prediction" in value:
            target, answer = value["answer"].strip(), str(value["prediction"])
    letter = _LETTER.match(answer.strip())
    if re.fullmatch(r"[A-H]", target) and answer:
        return float(letter is not None and letter[1].upper() == target), "computed: letter of the answer = target"
    return None, None


def _option_confidence(options: Mapping[str, float | None], parsed: Any) -> float | None:
    """Softmax over the options, at the parsed answer's option; None where the answer is none of them."""
    known = {_fold(name): value for name, value in options.items() if value is not None}
    if parsed is None or _fold(parsed) not in known:
        return None
    top = max(known.values())
    return math.exp(known[_fold(parsed)] - top) / math.fsum(math.exp(value - top) for value in known.values())


def _fold(text: Any) -> str:
    return str(text).strip().rstrip(".").casefold()


def _answer_confidence(extras: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """exp of the sum and of the mean of the answer's token log-probabilities; none for a truncated answer."""
    logprob, count = _number(extras.get("logprob")), _number(extras.get("token_count"))
    if logprob is None or extras.get("truncated"):
        return None, None
    logprob = min(logprob, 0.0)
    return math.exp(logprob), (math.exp(logprob / count) if count else None)


def _category(record: Record) -> str | None:
    places = [record, *(value for value in record.values() if isinstance(value, Mapping))]
    found = (place.get(key) for place in places for key in ("question_type", "category"))
    return next((value for value in found if isinstance(value, str)), None)


def _text(value: Any) -> str | None:
    """Text that any UTF-8 writer takes: lone surrogates become visible escapes."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

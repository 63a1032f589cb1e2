"""What the model said in logged samples, and how sure it was."""

from __future__ import annotations

__all__ = ["answer_confidence", "read_responses", "with_letters", "wrapper_extras", "wrapper_options"]

import json
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from string import ascii_uppercase
from typing import Any

import numpy as np

from vlm_backbones.analysis._option_column import OptionColumn, Options
from vlm_backbones.analysis._values import Values, kinds, number

_LETTERS = frozenset(ascii_uppercase)
_FLAGS = frozenset({"True", "False", True, False})
_NO_EXTRAS: Mapping[str, Any] = {}
_NO_OPTIONS: Options = {}


def wrapper_extras(token_counts: Any) -> Mapping[str, Any]:
    """The wrapper's own record of a sample; other models log token counts there, or nothing."""
    first = token_counts[0] if isinstance(token_counts, list) and token_counts else token_counts
    extras = first.get("reasoning_tokens") if isinstance(first, dict) else None
    return extras if isinstance(extras, dict) else _NO_EXTRAS


def wrapper_options(extras: Mapping[str, Any]) -> Options:
    """The options that the wrapper scored."""
    scored = extras.get("option_logprobs")
    return {str(name): number(value) for name, value in scored.items()} if isinstance(scored, dict) else _NO_OPTIONS


def read_responses(responses: Values) -> tuple[Sequence[str], OptionColumn]:
    """Answers, and the options' log-probabilities where the log is a multiple-choice one."""
    if kinds(responses) == {list} and set(map(len, responses)) == {1}:
        responses = list(chain.from_iterable(responses))
    if kinds(responses) == {str}:
        return responses, OptionColumn.of([_NO_OPTIONS] * len(responses))
    options = _choices(responses)
    if options is not None:
        return options.most_probable(), options
    answers, known = zip(*map(_read_response, responses), strict=True)
    return answers, OptionColumn.of(known)


def with_letters(answers: Sequence[str], options: OptionColumn, targets: Values) -> tuple[Sequence[str], OptionColumn]:
    """Call numbered options A, B, C where the target is a letter: the log numbers them, the task does not."""
    lettered = np.array([isinstance(target, str) and target.strip() in _LETTERS for target in targets])
    lettered &= options.counts > 0
    if not lettered.any():
        return answers, options
    owners = np.repeat(lettered, options.counts).tolist()
    names = [_letter(name) if own else name for name, own in zip(options.names, owners, strict=True)]
    said = [_letter(answer) if own else answer for answer, own in zip(answers, lettered.tolist(), strict=True)]
    return said, OptionColumn(options.counts, names, options.logprobs)


def _letter(place: str) -> str:
    return ascii_uppercase[int(place)] if place.isdecimal() and int(place) < len(ascii_uppercase) else place


def _read_response(response: Any) -> tuple[str, Options]:
    if isinstance(response, list):
        options = _choices([response]) if len(response) != 1 or isinstance(response[0], list) else None
        if options is not None:
            return options.most_probable()[0], options.at(0)
        while isinstance(response, list):
            response = response[0] if response else None
    if isinstance(response, dict):
        response = response.get("text", response.get("prediction", json.dumps(response)))
    return ("" if response is None else str(response)), _NO_OPTIONS


def _choices(responses: Values) -> OptionColumn | None:
    """Options from lists of [log-probability, is greedy], or one bare pair; None where any sample is something else."""
    if kinds(responses) != {list}:
        return None
    lists = [pairs if pairs and isinstance(pairs[0], list) else [pairs] for pairs in responses]
    pairs = list(chain.from_iterable(lists))
    if kinds(pairs) != {list} or set(map(len, pairs)) != {2}:
        return None
    flat = list(chain.from_iterable(pairs))
    try:
        logprobs = np.fromiter(map(float, flat[::2]), dtype=np.float64, count=len(pairs))
    except (TypeError, ValueError, OverflowError):
        return None
    flags = flat[1::2]
    if not kinds(flags) <= {str, bool} or not _FLAGS.issuperset(flags):
        return None
    return OptionColumn.numbered(list(map(len, lists)), logprobs)


def answer_confidence(extras: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """exp of the sum and of the mean of the answer's token log-probabilities; none for a truncated answer.

    No mean without a count of tokens, which a log of another tool may lack or get wrong.
    """
    logprob, count = number(extras.get("logprob")), number(extras.get("token_count"))
    if logprob is None or extras.get("truncated"):
        return None, None
    logprob = min(logprob, 0.0)
    return math.exp(logprob), (math.exp(logprob / count) if count is not None and count >= 1 else None)

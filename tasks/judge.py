"""A judge's grade of an answer, 0 to 1, as ViP-Bench and MM-Vet ask for it; no judge means no grade, never 0.

A judge is asked where lmms-eval's own provider is configured (API_TYPE, openai by default, with its key as
OPENAI_API_KEY; MODEL_VERSION, by default gpt-4-0613). Without one the answers stay ungraded and `judge_files` writes
their questions for any other judge.
"""

from __future__ import annotations

import ast
import os
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from vlm_backbones.errors import ConfigError

__all__ = ["DEFAULT_MODEL", "Rubric", "ask_judge", "judge_name", "judge_prompt", "parse_grade"]

Rubric = Literal["vip_bench", "mm_vet"]
"""Whose worked rows the judge reads: ViP-Bench's name rectangles in the questions."""

DEFAULT_MODEL = "gpt-4-0613"
_MAX_TOKENS = 3
_RETRIES = 5
_WARMER = 0.5
_AGAIN = "\nPredict the correctness of the answer (digit): "
_FAILURES_BEFORE_GIVING_UP = 3
_HEADER = "Question | Ground truth | Prediction | Correctness"
_MARKS = ("yellow", "yellow", "yellow", "red", "orange", "blue", "blue")


def judge_prompt(question: str, answer: str, prediction: str, rubric: Rubric = "vip_bench") -> str:
    """Return the question for the judge: MM-Vet's instruction, seven worked rows, and this row."""
    answer = answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return f"{_worked_rows(rubric)}\n\n" + " | ".join([question, answer, prediction, ""])


@cache
def _worked_rows(rubric: Rubric) -> str:
    """Return MM-Vet's few-shot prompt as the installed lmms-eval has it, or with ViP-Bench's rectangles in its rows."""
    folder = Path(next(iter((find_spec("lmms_eval") or _missing()).submodule_search_locations or [""])))
    source = (folder / "tasks" / "mmvet" / "utils.py").read_text(encoding="utf-8")
    found = [
        node.value.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        and [target.id for target in node.targets if isinstance(target, ast.Name)] == ["MM_VET_PROMPT"]
        and isinstance(node.value, ast.Constant)
    ]
    lines = str(found[0]).strip().split("\n") if found else []
    if len(lines) != 3 + len(_MARKS):
        raise ConfigError("the installed lmms-eval has no MM-Vet prompt of seven rows. Install lmms_eval==0.7.3.")
    instruction, _, rule, *rows = lines
    if rubric == "mm_vet":
        return "\n".join([instruction, "", _HEADER, rule, *rows])
    marked = [row.replace("?", f" within the {mark} rectangle?", 1) for row, mark in zip(rows, _MARKS, strict=True)]
    return "\n".join([instruction, "", _HEADER, rule, *marked])


def _missing() -> Any:
    raise ConfigError("lmms-eval is not installed: pip install lmms_eval.")


def parse_grade(text: object) -> float | None:
    """Return the first word as a number between 0 and 1, else None.

    Examples
    --------
    >>> parse_grade("0.7 (partly)"), parse_grade("wrong"), parse_grade("7")
    (0.7, None, None)
    """
    try:
        grade = float(str(text).strip().split(" ")[0])
    except ValueError:
        return None
    return grade if 0.0 <= grade <= 1.0 else None


class _Judge:
    """lmms-eval's provider, given up after three failures in a row: each waits long for a server that is not there."""

    def __init__(self) -> None:
        from lmms_eval.llm_judge import ServerConfig, get_server

        self.model = os.environ.get("MODEL_VERSION") or DEFAULT_MODEL
        self.failures = 0
        self.server = get_server(os.environ.get("API_TYPE", "openai").lower(), ServerConfig(model_name=self.model))

    def answer(self, prompt: str, temperature: float) -> str:
        from lmms_eval.llm_judge import Request, ServerConfig

        config = ServerConfig(
            model_name=self.model, temperature=temperature, max_tokens=_MAX_TOKENS, num_retries=3, retry_delay=5
        )
        return str(self.server.evaluate(Request(messages=[{"role": "user", "content": prompt}], config=config)).content)


@cache
def _judge() -> _Judge | None:
    """Return the configured judge, None without one; asked for once a process."""
    try:
        judge = _Judge()
    except Exception as error:  # a provider's own kinds of error; the answers can still be graded later
        warnings.warn(f"the judge cannot be used ({error}); answers stay ungraded.", stacklevel=3)
        return None
    return judge if judge.server.is_available() else None


def judge_name() -> str | None:
    """Return the model that grades; None without a judge."""
    judge = _judge()
    return None if judge is None else judge.model


def ask_judge(question: str, answer: str, prediction: str, rubric: Rubric = "vip_bench") -> float | None:
    """Return the judge's grade of a prediction.

    None where no judge is configured, none answers, or no answer is a grade. An answer that is no number between 0 and
    1 is asked for again, up to five times, each time warmer by 0.5.
    """
    judge = _judge()
    if judge is None or judge.failures >= _FAILURES_BEFORE_GIVING_UP:
        return None
    try:
        prompt = judge_prompt(question, answer, prediction, rubric)
        for attempt in range(_RETRIES + 1):
            answered = judge.answer(prompt if attempt == 0 else prompt + _AGAIN, attempt * _WARMER)
            judge.failures = 0
            if (grade := parse_grade(answered)) is not None:
                return grade
    except Exception as error:  # a provider's own kinds of error
        judge.failures += 1
        warnings.warn(f"the judge did not answer ({error}); the answer stays ungraded.", stacklevel=2)
    return None

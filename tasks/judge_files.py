"""Grading without a server at hand: logged answers -> questions for a judge, and its grades -> the logs.

vlm-backbones judge write LOGS OUT
vlm-backbones judge read LOGS GRADES.jsonl
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from vlm_backbones.cache import atomic_write_text
from vlm_backbones.done_files import damaged_files, run_folder
from vlm_backbones.errors import LogError
from vlm_backbones.hashes import file_sha256, read_sealed_json, sealed_json
from vlm_backbones.json_text import parse_json, written_json
from vlm_backbones.tasks.common import answer_text, mean
from vlm_backbones.tasks.judge import Rubric, judge_prompt, parse_grade
from vlm_backbones.tasks.judged import graded_metrics

__all__ = ["GradedCounts", "read_grades", "write_questions"]

Sample = dict[str, Any]
_TASKS = ("vip_bench_bbox", "vip_bench_human", "mmvet_study")


@dataclass(frozen=True)
class GradedCounts:
    """How many answers have a grade now, how many have none, and how many grades belong to no answer."""

    graded: int
    ungraded: int
    unused: int


def write_questions(logs: Path, out: Path) -> int:
    """Write OUT/questions.jsonl, one row a question for the judge, and one submission file a log; return the rows.

    A row has `key` (which the grade must repeat), `task`, `question_id` and `prompt`. Equal answers of several runs are
    one question. `submission-RUN-TASK.json` is what the servers of ViP-Bench and MM-Vet take: question_id -> answer.

    Raises
    ------
    LogError
        If the folder has no logged samples that wait for a judge.
    """
    rows: dict[str, dict[str, str]] = {}
    for path, samples in _judged_logs(logs):
        task = path.stem.rpartition("samples_")[2]
        answers = {}
        for sample in samples:
            judged, prompt = sample["backbones"]["judged"], _prompt(sample)
            rows[_key(prompt)] = {
                "key": _key(prompt), "task": task, "question_id": judged["question_id"], "prompt": prompt,
            }  # fmt: skip
            answers[judged["question_id"]] = _answer(sample)
        name = f"submission-{path.parent.name}-{task}.json"
        atomic_write_text(out / name, written_json(answers, indent=1))
    lines = [written_json(row) for row in rows.values()]
    atomic_write_text(out / "questions.jsonl", "\n".join(lines) + "\n")
    return len(lines)


def read_grades(logs: Path, grades: Path) -> GradedCounts:
    """Write the grades into the logged samples and the results files beside them.

    GRADES has one JSON object a line: `key` as in questions.jsonl, and `grade`, a number from 0 to 1 or the judge's own
    words that begin with one. Null, or words without a number, leave the answer ungraded. `judge` may name who graded;
    left out, it is the file's name.

    Raises
    ------
    LogError
        If a line is malformed, or no grade belongs to these logs.
    """
    given = _read_grade_file(grades)
    used: set[str] = set()
    graded = ungraded = 0
    for path, samples in list(_judged_logs(logs)):
        keys = [_key(_prompt(sample)) for sample in samples]
        for key, sample in zip(keys, samples, strict=True):
            if key in given:
                _grade(sample, *given[key])
            graded += sample["backbones"]["score"] is not None
            ungraded += sample["backbones"]["score"] is None
        if own := set(keys) & set(given):
            used |= own
            atomic_write_text(path, "".join(written_json(row) + "\n" for row in samples))
            _update_results(path, samples)
            _update_checksum(path)
    if not used:
        raise LogError(f"no grade of {grades} belongs to the answers in {logs}. Write their questions again.")
    return GradedCounts(graded, ungraded, len(set(given) - used))


def _update_checksum(log: Path) -> None:
    """Note the new content of log and results where the evaluation listed the old: they would be taken for damaged."""
    done = _listing(log)
    content = None if done is None else read_sealed_json(done)
    if done is None or content is None:  # of a damaged one, the next analysis says so
        return
    results = _results_of(log)
    for row in content["tasks"].values():
        if "sha256" in row and done.parent / row["samples"] == log:
            row["sha256"] = file_sha256(log)
        name = os.path.relpath(results, run_folder(done))
        if name in row.get("files", {}):
            row["files"][name] = file_sha256(results)
    atomic_write_text(done, sealed_json(content))


def _judged_logs(root: Path) -> Iterator[tuple[Path, list[Sample]]]:
    """Yield each log whose samples wait for a judge or have been graded by one."""
    paths = [root] if root.is_file() else sorted(root.rglob("*samples_*.jsonl"))
    found = False
    for path in paths:
        try:
            # by lines of bytes: str.splitlines would cut an answer at characters that JSON leaves bare
            samples = [parse_json(line) for line in path.read_bytes().splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise LogError(f"{path} is no readable log of samples ({error}). Evaluate again.") from error
        if samples and all(_waits_for_a_judge(sample) for sample in samples):
            found = True
            _refuse_damaged(path)
            for row, sample in enumerate(samples, start=1):
                _check(sample, f"{path} row {row}")
            yield path, samples
    if not found:
        raise LogError(f"{root} holds no logged samples that a judge grades: {', '.join(_TASKS)}.")


def _refuse_damaged(log: Path) -> None:
    """Refuse a log that is not the one that its evaluation listed: with grades it would be listed as whole."""
    done = _listing(log)
    if done is not None and any(log in paths for paths in damaged_files(done).values()):
        raise LogError(
            f"{log} is not the file that the evaluation wrote (its sha256 is not the one in {done.name}): it is "
            "damaged or was edited. Run the study or the evaluation again, which replaces it."
        )


def _listing(log: Path) -> Path | None:
    return next((folder / "done.json" for folder in log.parents if (folder / "done.json").is_file()), None)


def _waits_for_a_judge(sample: Any) -> bool:
    ours = sample.get("backbones") if isinstance(sample, dict) else None
    return isinstance(ours, dict) and "judged" in ours


class _Judged(BaseModel):
    """What is asked of the judge; `question_id` names it in the file for ViP-Bench's server."""

    question_id: str | int
    question: str
    answer: str


class _Graded(BaseModel):
    """The part of a logged sample that this module reads and writes."""

    judged: _Judged
    rungs: dict[str, Annotated[float, Field(strict=True)] | None]
    score: Annotated[float, Field(strict=True)] | None


def _check(sample: Sample, place: str) -> None:
    try:
        _Graded.model_validate(sample["backbones"])
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in ("backbones", *first["loc"]))
        raise LogError(f"{place}: {name} is {str(first['input'])[:60]!r}: {first['msg']}. Evaluate again.") from error


def _answer(sample: Sample) -> str:
    said = sample.get("filtered_resps") or sample.get("resps") or []
    return answer_text(said if isinstance(said, list) else [said])


def _prompt(sample: Sample) -> str:
    judged = sample["backbones"]["judged"]
    return judge_prompt(judged["question"], judged["answer"], _answer(sample), _rubric(sample))


def _rubric(sample: Sample) -> Rubric:
    named: Rubric = sample["backbones"]["judged"].get("rubric", "vip_bench")
    return named


def _key(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "backslashreplace")).hexdigest()[:24]


def _read_grade_file(path: Path) -> dict[str, tuple[float | None, str]]:
    """Return key -> grade and judge."""
    if not path.is_file():
        raise LogError(f"no file {path}. Expected one JSON object a line: key and grade.")
    grades: dict[str, tuple[float | None, str]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            key, grade = str(row["key"]), row["grade"]
        except (ValueError, KeyError, TypeError) as error:
            raise LogError(f"{path} line {number}: expected an object with key and grade ({error!r}).") from error
        if isinstance(grade, int | float) and parse_grade(grade) is None:
            raise LogError(f"{path} line {number}: the grade {grade} is outside 0 to 1.")
        if key in grades and grades[key][0] != parse_grade(grade):
            raise LogError(f"{path} line {number}: key {key} has two different grades. Keep one.")
        grades[key] = parse_grade(grade), str(row.get("judge") or path.name)
    return grades


def _grade(sample: Sample, grade: float | None, judge: str) -> None:
    ours = sample["backbones"]
    ours["judged"]["judge"] = None if grade is None else judge
    ours["score"] = grade
    ours["rungs"] = dict.fromkeys(ours["rungs"], grade)
    sample.update(graded_metrics(ours["rungs"], grade, _rubric(sample)))


def _results_of(log: Path) -> Path:
    return log.with_name(f"{log.stem.rpartition('samples_')[0]}results.json")


def _update_results(path: Path, samples: list[Sample]) -> None:
    """Bring the task's numbers in the results file of the same evaluation up to date."""
    file, task = _results_of(path), path.stem.rpartition("samples_")[2]
    if not file.is_file():
        return
    try:
        content = parse_json(file.read_bytes())
    except ValueError as error:
        raise LogError(f"{file} is not valid JSON ({error}). Remove it, or evaluate again.") from error
    results = content.get("results") if isinstance(content, dict) else None
    row = results.get(task) if isinstance(results, dict) else None
    if not isinstance(row, dict):
        return
    for name in [key for key in row if key.partition(",")[0].startswith("judge_score") and "_stderr" not in key]:
        grades = [sample.get(name.partition(",")[0]) for sample in samples]
        row[name] = mean([grade for grade in grades if isinstance(grade, int | float)])
    atomic_write_text(file, written_json(content, indent=2))

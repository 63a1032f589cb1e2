"""Whatever a model or a judge writes is read or not read, quickly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fuzzing import fuzz, lawful
from spoiling import among, any_of, as_json, odd_text, odd_value, some, spoilt, written

from vlm_backbones.scoring import (
    coordinate_error_km,
    coordinate_rungs,
    description_facts,
    normalize_vqa,
    parse_coordinates,
    vqa_accuracy,
)
from vlm_backbones.tasks.judge import judge_prompt, parse_grade
from vlm_backbones.tasks.judge_files import read_grades, write_questions
from vlm_backbones.tasks.pointqa_looktwice import utils as pointqa
from vlm_backbones.tasks.seismic_coords import utils as coords
from vlm_backbones.tasks.seismic_description import utils as description
from vlm_backbones.tasks.vqa_scene import utils as vqa

description.rouge_l("imports are", "no part of an input's time")
judge_prompt("", "", "")

_PIECES = [
    "1", "36.12", "-142.9", ".5", "9" * 25, "1e3", "1e400", "\u2212", "N", "s", " west", "lat", "lon:", '{"lat": ', "}",
    '"', ",", " ", "\n", "\t", "\u00a0", "magnitude ", "Mw 7", "M", " km", "kilomet", "near ", "in the coast of ", "A",
    "Japan ", "north", "-east", "centre", "intensity ", "VI", "X", ".", ";", "'", "(", "the ", "two ", "é", "²", "٣",
    "\0", "\ud800", "\u202e", "[", "{", "\\u0000", "NaN", "Infinity",
]  # fmt: skip
_SIZES = [1] * 40 + [40] * 8 + [1000, 15_000]


def answer_of_pieces(chance: Random) -> str:
    """Return pieces that the parsers look for, now and then some of them thousands of times."""
    size = chance.choice(_SIZES)
    parts = [
        chance.choice(_PIECES) if chance.random() < 0.8 else odd_text(chance)[:6] for _ in range(chance.randint(0, 8))
    ]
    return "".join(part * (size if chance.random() < 0.5 else 1) for part in parts)


FACTS = {"magnitude": 6.3, "depth_km": 24, "region": "Japan", "quadrant": "northeast", "max_intensity": "VI"}
ROW = {"latitude": 36.1, "longitude": 142.9, "description": "Near Japan.", "question": "What?", "answer": "two",
       "answers": ["two"], "targets": '{"a": 1}', "frame": "Japan", **FACTS}  # fmt: skip


@fuzz(answer=answer_of_pieces, references=some(any_of(among(_PIECES), odd_text), 0, 10))
def test_scores_of_answers(out: Path, answer: str, references: list[str]) -> None:
    with lawful(out):
        assert isinstance(normalize_vqa(answer), str)
        assert not vqa_accuracy(answer, references) > 1
        place = parse_coordinates(answer)
        error = coordinate_error_km(answer, (36.1, 142.9))
        assert math.isnan(error) if place is None else 0 <= error <= 20_016
        assert coordinate_rungs(answer, (36.1, 142.9))["parsed"] == (place is not None)
        assert 0 <= description_facts(answer, FACTS)["score"] <= 1  # type: ignore[operator]
        assert parse_grade(answer) is None or 0 <= parse_grade(answer) <= 1  # type: ignore[operator]


@fuzz(row=spoilt([ROW]), said=any_of(answer_of_pieces, odd_value))
def test_results_of_tasks(out: Path, row: Any, said: Any) -> None:
    if not isinstance(row, dict):
        return
    listed = row.get("answers")  # `check_test_split` has refused all else
    whole = isinstance(listed, list) and all(isinstance(one, str) for one in listed)
    doc = row if whole else {**row, "answers": ["a"]}
    with lawful(out):
        for task in (vqa, coords, description, pointqa):
            json.dumps(task.process_results(doc, [said]))


JUDGED = {"doc_id": 0, "filtered_resps": ["a dog"], "judge_score": None, "judge_score_rec": None, "backbones": {
    "parsed": "a dog", "score": None, "rungs": {"rec": None}, "question_type": "rec",
    "judged": {"question_id": "v1_0", "question": "What?", "answer": "a cat"}}}  # fmt: skip
RESULTS = {"results": {"vip_bench_bbox": {"judge_score,none": 0.5, "judge_score_stderr,none": "N/A"}}}


@pytest.fixture(scope="module")
def key(out: Path) -> str:
    log = out / "log" / "x_samples_vip_bench_bbox.jsonl"
    log.parent.mkdir()
    log.write_bytes(as_json(JUDGED) + b"\n")
    write_questions(log.parent, out / "questions")
    return str(json.loads((out / "questions" / "questions.jsonl").read_text())["key"])


@fuzz(
    sample=written(spoilt([JUDGED])),
    grade=written(spoilt([{"key": "", "grade": 0.5}, {"key": "", "grade": "0.7 partly"}])),
    results=written(spoilt([RESULTS])),
)
def test_grades_of_a_judge(out: Path, key: str, sample: bytes, grade: bytes, results: bytes) -> None:
    logs = out / "judged"
    logs.mkdir(exist_ok=True)
    (logs / "x_samples_vip_bench_bbox.jsonl").write_bytes(sample + b"\n")
    (logs / "x_results.json").write_bytes(results)
    (out / "grades.jsonl").write_bytes(grade.replace(b'"key": ""', b'"key": "' + key.encode() + b'"'))
    with lawful(out):
        write_questions(logs, out / "questions")
    with lawful(out):
        read_grades(logs, out / "grades.jsonl")

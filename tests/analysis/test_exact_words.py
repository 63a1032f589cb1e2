"""The probability of a whole answer is judged by whether the answer is its target, where right is only a threshold."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from vlm_backbones.analysis import read_samples
from vlm_backbones.analysis.confidences import kinds_of, primary_kind
from vlm_backbones.analysis.exact_words import exact_words, is_graded
from vlm_backbones.analysis.table_calibration import calibration, calibration_pairs
from vlm_backbones.analysis.task_runs import task_runs
from vlm_backbones.analysis.temperature import at_limit, held_out


def part_of(rows: list[tuple[str, str, float]]) -> pl.DataFrame:
    """Answer, target, score."""
    return pl.DataFrame(rows, schema=["answer", "target", "score"], orient="row")


@pytest.mark.parametrize(
    ("answer", "exact"),
    [
        ('{"lat": 8.4, "lon": 126.6}', True),  # 8.418 and 126.553, rounded as it is written
        ('{"lat": 8.42, "lon": 126.55}', True),
        ('{"lon": 127, "lat": 8}', True),
        ('{"lat": 8.4, "lon": 126.5}', False),
        ('{"lat": 8.40, "lon": 126.6}', False),  # to two decimals it is 8.42
        ('{"lat": "NaN", "lon": 126.6}', False),
        ('{"lat": 8.4}', False),
        ("8.4, 126.6", False),
        ("", False),
    ],
)
def test_a_place_is_exact_to_its_own_decimals(answer: str, exact: bool) -> None:
    part = part_of([(answer, '{"lat": 8.418, "lon": 126.553}', 1.0)])
    assert exact_words(part).to_list() == [exact]


def test_a_text_is_exact_but_for_case_blanks_and_a_period() -> None:
    part = part_of([(" The Dog.", "the dog", 1.0), ("a dog", "the dog", 0.7)])
    assert exact_words(part).to_list() == [True, False]


def test_right_or_wrong_alone_is_not_graded() -> None:
    assert not is_graded(part_of([("a", "a", 1.0), ("b", "a", 0.0)]))
    assert is_graded(part_of([("a", "a", 1.0), ("b", "a", 0.6)]))
    assert is_graded(part_of([("x", '{"lat": 1.5, "lon": 2.5}', 0.0)]))


@pytest.fixture(scope="module")
def places(make: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Two runs that name a place to one decimal, all within 100 km; one answer in ten is the target itself.

    The first run gives each answer 10 %, the second 50 %.
    """
    folder = tmp_path_factory.mktemp("places")
    for run, sure in (("first", 0.1), ("second", 0.5)):
        rows: list[dict[str, Any]] = []
        for i in range(200):
            target = {"lat": round(10 + i / 100, 3), "lon": 20.0}
            answer = {"lat": round(10 + i / 100 + (0 if i % 10 == 0 else 0.2), 1), "lon": 20.0}
            extras = {"reasoning_tokens": {"doc_key": f"k{i}", "logprob": math.log(sure), "token_count": 9}}
            rows.append(make.row(i, json.dumps(target), json.dumps(answer), None, token_counts=[extras]))
        make.log(folder / run, rows, task="places")
    return read_samples([folder])


def test_confidence_in_one_wording_is_not_underconfidence_in_a_place(places: pl.DataFrame) -> None:
    assert kinds_of(places) == ("option", "sequence", "exact", "per_token")
    assert primary_kind(places) == "exact"
    table = {(row["run"], row["confidence_kind"]): row for row in calibration(places).to_dicts()}
    threshold, exact = table["first", "sequence"], table["first", "exact"]
    assert threshold["accuracy"] == 1.0
    assert "no over- or underconfidence" in threshold["note"]
    assert exact["accuracy"] == pytest.approx(0.1)
    assert exact["overconfidence"] == pytest.approx(0.0)
    assert table["second", "exact"]["overconfidence"] == pytest.approx(0.4)
    assert "the target's very words" in exact["note"]


def test_pairs_are_judged_by_the_same_event(places: pl.DataFrame) -> None:
    pairs = {row["measure"]: row for row in calibration_pairs(task_runs(places), bootstrap=50).to_dicts()}
    assert pairs["overconfidence"]["diff"] == pytest.approx(0.4)
    assert "word for word" in pairs["overconfidence"]["note"]


def test_a_temperature_at_its_limit_says_so() -> None:
    # a confidence of 1 % for answers that are right every second time: only an infinite temperature would mend it
    rng = np.random.default_rng(0)
    correct, first = rng.permutation(200) % 2 == 0, np.arange(200) % 2 == 0
    found = held_out(np.full(200, 0.01), correct.astype(float), first)
    assert at_limit(found.temperature) == "50"
    assert at_limit(2.5) == ""


def test_a_temperature_needs_right_and_wrong_answers() -> None:
    first = np.arange(100) % 2 == 0
    assert math.isnan(held_out(np.linspace(0.1, 0.9, 100), np.ones(100), first).temperature)


def test_short_answers_stay_as_they_were(study_dir: Path) -> None:
    scenes = read_samples([study_dir]).filter(task="vqa_scene", condition="clean")
    assert "exact" not in kinds_of(scenes)

"""Scores of answers, with expected values derived by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_backbones.errors import DataError
from vlm_backbones.scoring import (
    OFF_GLOBE_ERROR_KM,
    coordinate_error_km,
    coordinate_rungs,
    description_facts,
    normalize_vqa,
    parse_coordinates,
    vqa_accuracy,
)

TOKYO = '{"lat": 35.7, "lon": 139.7}'
EVENT = {"magnitude": 6.3, "depth_km": 24.0, "region": "Japan", "quadrant": "northeast", "max_intensity": "VI"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The two dogs.", "2 dogs"),
        ("dont", "don't"),
        ("black/white", "black white"),  # no space beside the mark: it becomes a space
        ("black / white", "black white"),  # a space beside it: it goes
        ("1,000 a-b", "1000 ab"),  # a number with a comma makes every mark go
        ("3.5", "3.5"),
        ("none", "0"),
        ("shed", "shed"),  # a gap of the official table
        (" yes\n", "yes"),
    ],
)
def test_normalisation_follows_the_official_evaluator(text: str, expected: str) -> None:
    assert normalize_vqa(text) == expected


def test_vqa_accuracy_counts_the_other_nine() -> None:
    # Three of ten match: for each of the three the other nine hold two (2/3), for the other seven three (1):
    # (3 * 2/3 + 7 * 1) / 10 = 0.9.
    assert vqa_accuracy("cat", ["cat"] * 3 + ["dog"] * 7) == 0.9
    # One of ten: nine times 1/3, once 0.
    assert vqa_accuracy("cat", ["cat"] + ["dog"] * 9) == pytest.approx(0.3)
    assert vqa_accuracy("The cat.", ["cat"] * 5 + ["dog"] * 5) == 1.0


def test_identical_references_are_compared_raw() -> None:
    assert vqa_accuracy("Cat", ["cat"] * 10) == 0.0
    assert vqa_accuracy(" cat\n", ["cat"] * 10) == 1.0


def test_one_reference_is_exact_match_after_normalisation_and_none_is_no_score() -> None:
    assert vqa_accuracy("Two", ["2"]) == 1.0
    assert vqa_accuracy("3", ["2"]) == 0.0
    assert math.isnan(vqa_accuracy("x", []))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (TOKYO, (35.7, 139.7, True)),
        (f"  {TOKYO}\n", (35.7, 139.7, True)),
        (f"It is {TOKYO}.", (35.7, 139.7, False)),
        ('{"lon": 139.7, "lat": 35.7}', (35.7, 139.7, True)),
        ('{"Latitude": "35.7", "Longitude": "139.7 E"}', (35.7, 139.7, False)),
        ('{"lat": "35.7", "lon": 139.7}', (35.7, 139.7, False)),
        ('{"lat": 35.7, "lon": 139.7, "depth": 3}', (35.7, 139.7, False)),
        ('{"lat": 35.7, "lon": 139.7', (35.7, 139.7, False)),
        ('{"lon": 139.7, "lat": 35.7', (35.7, 139.7, False)),
        ("35.7, 139.7", (35.7, 139.7, False)),
        ("35.7° N, 139.7° E", (35.7, 139.7, False)),
        ("139.7E 35.7N", (35.7, 139.7, False)),
        ("S 35.7 W 139.7", (-35.7, -139.7, False)),
        ("-35.7 S, 139.7", (-35.7, 139.7, False)),
        ("N36.12 E142.86", (36.12, 142.86, False)),
        ("36.12N142.86W", (36.12, -142.86, False)),
        ("3e1, 1e2", (30.0, 100.0, False)),
        ("\u221235.7 and 139.7 degrees", (-35.7, 139.7, False)),
    ],
)
def test_coordinates_are_read(answer: str, expected: tuple[float, float, bool]) -> None:
    place = parse_coordinates(answer)
    assert place is not None
    assert (place.latitude, place.longitude, place.schema) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Japan",
        "35.7",
        "35.7, 139.7, 12",
        '{"lat": NaN, "lon": 1}',
        '{"lat": true, "lon": 1}',
        '{"lat": 1e999, "lon": 5}',
        "{" * 5000,
    ],
)
def test_anything_but_two_numbers_is_not_parsed(answer: str) -> None:
    assert parse_coordinates(answer) is None


def test_error_is_a_great_circle_on_the_mean_radius() -> None:
    # One degree of the equator: 2 pi 6371.0088 / 360.
    assert coordinate_error_km("0, 1", (0.0, 0.0)) == pytest.approx(111.19508, abs=1e-4)
    # Across the date line, and a longitude written beyond it.
    assert coordinate_error_km("0, 179.5", (0.0, -179.5)) == pytest.approx(111.19508, abs=1e-4)
    assert coordinate_error_km("0, 361", (0.0, 0.0)) == pytest.approx(111.19508, abs=1e-4)
    # Antipodes: half the circumference.
    assert coordinate_error_km("0, 180", (0.0, 0.0)) == pytest.approx(math.pi * 6371.0088)
    assert coordinate_error_km("91, 0", (0.0, 0.0)) == OFF_GLOBE_ERROR_KM
    assert math.isnan(coordinate_error_km("nowhere", (0.0, 0.0)))


def test_rungs_of_an_exact_a_swapped_a_flipped_and_a_missing_answer() -> None:
    exact = coordinate_rungs(TOKYO, TOKYO)
    assert [name for name, value in exact.items() if value is True] == [
        "answered", "parsed", "schema", "in_range", "within_1000_km", "within_250_km", "within_100_km", "within_50_km",
    ]  # fmt: skip
    assert exact["error_km"] == 0
    swapped = coordinate_rungs("139.7, 35.7", TOKYO)
    assert swapped["swapped"] is True
    assert swapped["sign_flipped"] is False
    assert swapped["in_range"] is False
    assert coordinate_rungs("-35.7, 139.7", TOKYO)["sign_flipped"] is True
    empty = coordinate_rungs(" ", TOKYO)
    assert not any(value is True for value in empty.values())
    assert math.isnan(empty["error_km"])
    assert coordinate_rungs("35.7, 499.7", TOKYO)["within_50_km"] is True
    assert coordinate_rungs("35.7, 499.7", TOKYO)["in_range"] is False


def test_a_target_that_is_no_place_is_named() -> None:
    with pytest.raises(DataError, match="no place"):
        coordinate_error_km("1, 2", "unknown")


@given(st.floats(-90, 90), st.floats(-180, 180), st.floats(-90, 90), st.floats(-180, 180))
def test_distance_is_symmetric_and_bounded(lat_a: float, lon_a: float, lat_b: float, lon_b: float) -> None:
    there = coordinate_error_km(f"{lat_a:f}, {lon_a:f}", (lat_b, lon_b))
    back = coordinate_error_km(f"{lat_b:f}, {lon_b:f}", (lat_a, lon_a))
    assert 0 <= there <= math.pi * 6371.0088 + 1e-6
    assert there == pytest.approx(back, abs=0.01)  # the text keeps six decimals


@given(st.text())
def test_scoring_never_raises_on_text(text: str) -> None:
    rungs = coordinate_rungs(text, TOKYO)
    assert rungs["parsed"] or not rungs["within_1000_km"]
    assert 0 <= description_facts(text, EVENT)["score"] <= 1
    assert 0 <= vqa_accuracy(text, ["a", "b"]) <= 1


def test_the_reference_sentence_has_every_fact() -> None:
    sentence = (
        "A magnitude 6.3 earthquake at 24 km depth near Japan, in the northeast of the map, with intensity up to VI."
    )
    assert description_facts(sentence, EVENT) == {
        "facts": dict.fromkeys(EVENT, True),
        "score": 1.0,
        "hallucinated": 0,
    }


def test_tolerances_and_hallucinations() -> None:
    # 6.45 is at the tolerance of 0.15, 29 km at that of 5 km; another region and quadrant are stated and wrong.
    text = "Magnitude 6.45, 29 km deep, near Papua New Guinea, in the south-west of the map, with intensity up to VIII."
    judged = description_facts(text, EVENT)
    assert judged["facts"] == {
        "magnitude": True, "depth_km": True, "region": False, "quadrant": False, "max_intensity": False,
    }  # fmt: skip
    assert judged["score"] == 0.4
    assert judged["hallucinated"] == 3
    assert description_facts("M6.46 at 30 km", EVENT)["hallucinated"] == 2


def test_depth_tolerance_grows_with_depth_and_unstated_facts_are_not_hallucinated() -> None:
    # 10 % of 600 km is 60 km.
    assert description_facts("at 655 km depth", {"depth_km": 600.0})["score"] == 1.0
    assert description_facts("at 665 km depth", {"depth_km": 600.0})["score"] == 0.0
    assert description_facts("", EVENT)["hallucinated"] == 0
    assert math.isnan(float(str(description_facts("anything", {})["score"])))

"""Answer to score, for tasks and analysis: VQA accuracy, coordinates, description facts. No torch, no numpy."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from vlm_backbones._description_facts import description_facts
from vlm_backbones._vqa_words import CONTRACTIONS, NUMBER_WORDS
from vlm_backbones.errors import DataError
from vlm_backbones.json_text import parse_json

__all__ = [
    "EARTH_RADIUS_KM",
    "OFF_GLOBE_ERROR_KM",
    "Coordinates",
    "coordinate_error_km",
    "coordinate_rungs",
    "description_facts",
    "normalize_vqa",
    "parse_coordinates",
    "vqa_accuracy",
]

# --- VQA accuracy -----------------------------------------------------------------------------------------------------

_PUNCTUATION = (*';/[]"{}()=+', "\\", *"_-><@`,?!")
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
# The evaluator passes `re.UNICODE` (32) where `re.sub` takes a count: the 33rd full stop survives.
_FULL_STOPS_REMOVED = 32


def _clean_ends(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def normalize_vqa(text: str) -> str:
    """Return an answer as the official VQA evaluator compares it.

    Punctuation goes first, then lower case, number words to digits, articles out, contractions restored.

    Notes
    -----
    Source: `vqaEval.py` of GT-Vision-Lab/VQA, `processPunctuation` and `processDigitArticle`, with their oddities: a
    mark is deleted where it touches a space anywhere in the text or where the text has a number with a comma, and
    becomes a space otherwise.

    Examples
    --------
    >>> normalize_vqa("The two dogs.")
    '2 dogs'
    """
    text = _clean_ends(text)
    words = text
    number_with_comma = _NUMBER_WITH_COMMA.search(text) is not None
    for mark in _PUNCTUATION:
        deleted = f"{mark} " in text or f" {mark}" in text or number_with_comma
        words = words.replace(mark, "" if deleted else " ")
    words = _FULL_STOP.sub("", words, count=_FULL_STOPS_REMOVED)
    numbers = (NUMBER_WORDS.get(word, word) for word in words.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in numbers if word not in {"a", "an", "the"})


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """Return the official VQA accuracy of an answer, between 0 and 1.

    For each reference answer the others that equal the answer are counted, min(1, count / 3), and the mean is taken.
    Normalisation happens only where the references differ; identical references are compared as raw strings.
    A single reference means exact match after normalisation (a rule of ours for datasets with one answer).

    Parameters
    ----------
    answer
        The model's answer.
    answers
        The reference answers, ten in VQAv2; NaN where there is none.

    Notes
    -----
    Source: `vqaEval.py` of GT-Vision-Lab/VQA.

    Examples
    --------
    >>> vqa_accuracy("cat", ["cat"] * 3 + ["dog"] * 7)
    0.9
    >>> vqa_accuracy("Cat", ["cat"] * 10)
    0.0
    """
    if not answers:
        return math.nan
    if len(answers) == 1:
        return float(normalize_vqa(answer) == normalize_vqa(answers[0]))
    given, references = _clean_ends(answer), [_clean_ends(reference) for reference in answers]
    if len(set(references)) > 1:
        given, references = normalize_vqa(given), [normalize_vqa(reference) for reference in references]
    matches = [reference == given for reference in references]
    counts = [sum(matches) - match for match in matches]
    # Counted in thirds: the sum of integers is exact, so that nine tenths is 0.9 and not 0.8999.
    return sum(min(3, count) for count in counts) / (3 * len(counts))


# --- Coordinates ------------------------------------------------------------------------------------------------------

EARTH_RADIUS_KM = 6371.0088
OFF_GLOBE_ERROR_KM = 20_015.0
RUNGS_KM = (1000, 250, 100, 50)

# A hemisphere may touch the number (N36.12, 36.1N142.9E); an exponent is part of it (1e2 is no longitude east).
_NUMBER = re.compile(
    r"(?:(?<![\w.])|(?<=(?<!\w)[nsew])|(?<=(?<![A-Za-z_])[NSEW]))[-+\u2212]?(?:\d+(?:\.\d*)?|\.\d+)"
    r"(?:e[-+]?\d{1,3}(?![\d.])|E[-+]?\d{1,3}(?![\w.]))?"
)
_HEMISPHERE = re.compile(r"(?<![a-z])(north|south|east|west|[nsew])(?![a-z])", re.IGNORECASE)
_LABEL = re.compile(r"(lat|lon|lng)", re.IGNORECASE)


@dataclass(frozen=True)
class Coordinates:
    """A place read from an answer; degrees, as written. `schema`: the answer was exactly the JSON object asked for."""

    latitude: float
    longitude: float
    schema: bool


def _number(value: object) -> float | None:
    """Return a finite float from a JSON number or a text with one number and perhaps a hemisphere."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value) if math.isfinite(value) else None
        except OverflowError:
            return None
    if isinstance(value, str):
        numbers = _signed_numbers(value)
        return numbers[0][0] if len(numbers) == 1 and math.isfinite(numbers[0][0]) else None
    return None


def _signed_numbers(text: str) -> list[tuple[float, str]]:
    """Return (number, hemisphere letter or "") pairs in the order of the text; S and W make a number negative.

    At most three: a place has two, and an endless answer must not take endless time.
    """
    numbers = list(islice(_NUMBER.finditer(text), 3))
    inside = [range(number.start(), number.end()) for number in numbers]
    letters = [one for one in _HEMISPHERE.finditer(text) if not any(one.start() in number for number in inside)]
    before = bool(letters and numbers) and letters[0].start() < numbers[0].start()
    pairs = []
    for index, match in enumerate(numbers):
        start = (numbers[index - 1].end() if index else 0) if before else match.end()
        following = numbers[index + 1].start() if index + 1 < len(numbers) else len(text)
        end = match.start() if before else following
        near = [letter.group(1)[0].upper() for letter in letters if start <= letter.start() < end]
        value = float(match.group().replace("\u2212", "-"))
        hemisphere = near[0] if near else ""
        pairs.append((-abs(value) if hemisphere in {"S", "W"} else value, hemisphere))
    return pairs


def _from_json(answer: str) -> Coordinates | None:
    start, end = answer.find("{"), answer.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        row = parse_json(answer[start : end + 1])
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    lowered = {str(key).strip().lower(): value for key, value in row.items()}
    names = {"lat": ("lat", "latitude"), "lon": ("lon", "lng", "long", "longitude")}
    found = {key: next((lowered[name] for name in names[key] if name in lowered), None) for key in names}
    latitude, longitude = _number(found["lat"]), _number(found["lon"])
    if latitude is None or longitude is None:
        return None
    alone = answer.strip() == answer[start : end + 1]
    numeric = all(isinstance(value, int | float) for value in found.values())
    return Coordinates(latitude, longitude, schema=alone and numeric and set(row) == {"lat", "lon"})


def parse_coordinates(answer: str) -> Coordinates | None:
    """Read a latitude and a longitude from an answer; None where that is not possible.

    JSON keys first, else exactly two numbers, with N, S, E, W and the labels lat and lon honoured.

    Examples
    --------
    >>> parse_coordinates('{"lat": 36.1, "lon": 142.9}')
    Coordinates(latitude=36.1, longitude=142.9, schema=True)
    >>> parse_coordinates("12.5 S, 76.9 W")
    Coordinates(latitude=-12.5, longitude=-76.9, schema=False)
    >>> parse_coordinates("somewhere near Japan") is None
    True
    """
    from_json = _from_json(answer)
    if from_json is not None:
        return from_json
    numbers = _signed_numbers(answer)
    if len(numbers) != 2 or not all(math.isfinite(value) for value, _ in numbers):
        return None
    (first, first_letter), (second, second_letter) = numbers
    labels = [match.group(1).lower() for match in _LABEL.finditer(answer)]
    longitude_first = first_letter in {"E", "W"} or second_letter in {"N", "S"}
    if not (first_letter or second_letter) and len(labels) == 2:
        longitude_first = labels[1] == "lat" and labels[0] != "lat"
    latitude, longitude = (second, first) if longitude_first else (first, second)
    return Coordinates(latitude, longitude, schema=False)


def _target(target: str | tuple[float, float]) -> tuple[float, float]:
    if isinstance(target, str):
        place = parse_coordinates(target)
        if place is None:
            raise DataError(f'the target {target!r} is no place; expected \'{{"lat": 36.12, "lon": 142.86}}\'.')
        return place.latitude, place.longitude
    return target


def _distance_km(latitude: float, longitude: float, target: tuple[float, float]) -> float:
    if abs(latitude) > 90:
        return OFF_GLOBE_ERROR_KM
    a, b = math.radians(latitude), math.radians(target[0])
    # A remainder first keeps huge longitudes exact: they wrap at the date line.
    across = math.radians(math.remainder(longitude - target[1], 360.0))
    haversine = math.sin((b - a) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin(across / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, haversine)))


def coordinate_error_km(answer: str | Coordinates, target: str | tuple[float, float]) -> float:
    """Return the great-circle distance in km between an answer and its target.

    Parameters
    ----------
    answer
        A model's text, or coordinates already read; degrees, WGS 84.
    target
        '{"lat": 36.12, "lon": 142.86}' or (latitude, longitude) in degrees.

    Returns
    -------
    float
        Kilometres on a sphere of radius 6371.0088; NaN where nothing was read, 20015 where the latitude is off the
        globe. The longitude wraps.

    Raises
    ------
    DataError
        If the target cannot be read.

    Examples
    --------
    >>> round(coordinate_error_km("0, 1", (0.0, 0.0)), 1)
    111.2
    """
    place = answer if isinstance(answer, Coordinates) else parse_coordinates(answer)
    expected = _target(target)
    return math.nan if place is None else _distance_km(place.latitude, place.longitude, expected)


def coordinate_rungs(answer: str, target: str | tuple[float, float]) -> dict[str, bool | float]:
    """Return every rung of the ladder for one answer.

    Keys: answered, parsed, schema, in_range, within_1000_km, within_250_km, within_100_km, within_50_km, error_km (NaN
    where not parsed), swapped and sign_flipped (not within 50 km as given, but so after swapping the two numbers or
    flipping one sign). `in_range` judges the numbers as written; the distances wrap the longitude.
    """
    expected = _target(target)
    place = parse_coordinates(answer)
    rungs: dict[str, bool | float] = {"answered": bool(answer.strip()), "parsed": place is not None}
    error = math.nan if place is None else _distance_km(place.latitude, place.longitude, expected)
    rungs["schema"] = place is not None and place.schema
    rungs["in_range"] = place is not None and abs(place.latitude) <= 90 and abs(place.longitude) <= 180
    # NaN compares false, so an answer that was not read is within nothing.
    rungs |= {f"within_{km}_km": error <= km for km in RUNGS_KM}
    rungs["error_km"] = error
    rungs["swapped"] = rungs["sign_flipped"] = False
    if place is not None and not error <= 50:
        latitude, longitude = place.latitude, place.longitude
        rungs["swapped"] = _distance_km(longitude, latitude, expected) <= 50
        flips = ((-latitude, longitude), (latitude, -longitude))
        rungs["sign_flipped"] = any(_distance_km(*flip, expected) <= 50 for flip in flips)
    return rungs

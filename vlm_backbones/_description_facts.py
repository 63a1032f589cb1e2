"""Facts stated in the description of a shake map, compared with those of the event; see `vlm_backbones.scoring`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from vlm_backbones.errors import DataError

__all__ = ["description_facts"]

MAGNITUDE_TOLERANCE = 0.15
DEPTH_TOLERANCE_SHARE = 0.10
DEPTH_TOLERANCE_KM = 5.0

_MAGNITUDE = re.compile(r"\b(?i:magnitude)\b\D{0,12}?(\d+(?:\.\d+)?)|\bM[wbsl]?\s?(\d+(?:\.\d+)?)")
_DEPTH = re.compile(r"(?<!\d)(\d+(?:\.\d+)?)\s*(?:km|kilomet)", re.IGNORECASE)
_REGION = re.compile(r"\b(?:near|in|off|around)\s+(?:the\s+coast\s+of\s+)?([A-Z][\w'\-]*(?:\s+[A-Z][\w'\-]*)*)")
_QUADRANT = re.compile(r"\b(north|south)[\s\-]?(east|west)(?:ern)?\b|\b(centre|center)\b", re.IGNORECASE)
_INTENSITY = re.compile(r"\b(?i:intensit(?:y|ies))\b[^.;]{0,30}?\b([IVX]+|\d{1,2})\b")
_WORD = re.compile(r"[^\W_]+")
_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")


def _words(text: str) -> str:
    return " ".join(["", *_WORD.findall(text.casefold()), ""])


def _stated_quadrants(answer: str) -> set[str]:
    found = ("".join(part for part in match.groups() if part).lower() for match in _QUADRANT.finditer(answer))
    return {"centre" if quadrant == "center" else quadrant for quadrant in found}


def _stated_intensity(answer: str) -> str | None:
    match = _INTENSITY.search(answer)
    if match is None:
        return None
    text = match.group(1)
    return _ROMAN[int(text) - 1] if text.isdigit() and 1 <= int(text) <= len(_ROMAN) else text


def _number(name: str, expected: object) -> float:
    try:
        return float(str(expected))
    except ValueError:
        raise DataError(
            f"the fact {name} is {str(expected)[:60]!r}; expected a number. Mend or drop the row."
        ) from None


def _judge(answer: str, name: str, expected: object) -> tuple[bool, bool]:
    """Return (stated, right) of one fact."""
    if name == "magnitude":
        match = _MAGNITUDE.search(answer)
        stated = float(match.group(1) or match.group(2)) if match else math.nan
        return match is not None, abs(stated - _number(name, expected)) <= MAGNITUDE_TOLERANCE + 1e-9
    if name == "depth_km":
        match, truth = _DEPTH.search(answer), _number(name, expected)
        stated = float(match.group(1)) if match else math.nan
        tolerance = max(DEPTH_TOLERANCE_SHARE * abs(truth), DEPTH_TOLERANCE_KM)
        return match is not None, abs(stated - truth) <= tolerance + 1e-9
    if name == "region":
        right = _words(str(expected)) in _words(answer)
        return right or _REGION.search(answer) is not None, right
    if name == "quadrant":
        quadrants = _stated_quadrants(answer)
        return bool(quadrants), quadrants == _stated_quadrants(str(expected)) and bool(quadrants)
    intensity = _stated_intensity(answer)
    return intensity is not None, intensity == str(expected)


def description_facts(answer: str, facts: Mapping[str, object]) -> dict[str, object]:
    """Compare the facts that a description states with those of the event.

    Tolerances: magnitude 0.15; depth the larger of 10 % and 5 km; the region's name must occur; the one quadrant
    stated must be the true one; the maximum intensity is a roman numeral (arabic digits are read too).

    Parameters
    ----------
    answer
        A sentence or two.
    facts
        magnitude, depth_km, region, quadrant, max_intensity; those missing or None are not judged.

    Returns
    -------
    dict
        `facts` (name -> right), `score` (share right, NaN without facts), `hallucinated` (number stated but wrong).

    Raises
    ------
    DataError
        If the magnitude or the depth of the event is no number.

    Examples
    --------
    >>> row = {"magnitude": 6.3, "depth_km": 24, "region": "Japan", "quadrant": "northeast", "max_intensity": "VI"}
    >>> description_facts("A magnitude 6.4 earthquake at 90 km depth near Japan.", row)["hallucinated"]
    1
    """
    names = ("magnitude", "depth_km", "region", "quadrant", "max_intensity")
    judged = {name: _judge(answer, name, facts[name]) for name in names if facts.get(name) is not None}
    right = {name: verdict for name, (_, verdict) in judged.items()}
    return {
        "facts": right,
        "score": sum(right.values()) / len(right) if right else math.nan,
        "hallucinated": sum(stated and not verdict for stated, verdict in judged.values()),
    }

"""The wording of every question: the only place, used by training data and by tasks. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

__all__ = [
    "caption_prompt",
    "coordinates_answer",
    "coordinates_prompt",
    "description_prompt",
    "description_sentence",
    "ocr_prompt",
    "short_questions",
    "vqa_prompt",
    "wording_fingerprint",
]


def vqa_prompt(question: str) -> str:
    """Return the prompt of a short-answer question."""
    return f"{question}\nAnswer briefly."


def ocr_prompt(question: str, tokens: Sequence[str]) -> str:
    """Return TextVQA's published prompt, with the words that were read in the picture.

    Examples
    --------
    >>> ocr_prompt("what is it?", ["KODAK", "400"]).split(chr(10))[1]
    'Reference OCR token: KODAK, 400'
    """
    return f"{question}\nReference OCR token: {', '.join(tokens)}\nAnswer the question using a single word or phrase."


def caption_prompt() -> str:
    """Return the prompt of a scene's caption, the align stage's question."""
    return "Describe this picture."


def description_prompt() -> str:
    """Return the prompt of the shake-map description."""
    return "Describe this earthquake."


def coordinates_prompt() -> str:
    """Return the prompt of the epicentre's coordinates, naming the JSON object that is asked for."""
    return 'Where is the epicentre? Answer as JSON: {"lat": degrees, "lon": degrees}.'


def coordinates_answer(latitude: float, longitude: float, *, decimals: int = 1) -> str:
    """Return the answer to `coordinates_prompt`; degrees, WGS 84.

    Examples
    --------
    >>> coordinates_answer(36.123, 142.861)
    '{"lat": 36.1, "lon": 142.9}'
    """
    return json.dumps({"lat": round(latitude, decimals), "lon": round(longitude, decimals)})


def description_sentence(*, magnitude: float, depth_km: float, region: str, quadrant: str, max_intensity: str) -> str:
    """Return the reference description of a shake map in one sentence.

    Examples
    --------
    >>> description_sentence(magnitude=6.3, depth_km=24, region="Japan", quadrant="northeast", max_intensity="VI")
    'A magnitude 6.3 earthquake at 24 km depth near Japan, in the northeast of the map, with intensity up to VI.'
    """
    return (
        f"A magnitude {magnitude:.1f} earthquake at {depth_km:.0f} km depth near {region}, "
        f"in the {quadrant} of the map, with intensity up to {max_intensity}."
    )


def short_questions(facts: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return a (question, answer) turn for each fact of a shake map that has a wording; training only.

    Parameters
    ----------
    facts
        Any of magnitude, depth_km, region, quadrant, max_intensity.
    """
    wording = {
        "magnitude": "What is the magnitude?",
        "depth_km": "How deep is it in km?",
        "region": "Which region is shown?",
        "quadrant": "In which part of the map is the star?",
        "max_intensity": "What is the highest intensity?",
    }
    return [(vqa_prompt(question), str(facts[name])) for name, question in wording.items() if name in facts]


def wording_fingerprint() -> str:
    """Return the sha256 of every wording above: a model is asked as it was taught, or it is another measurement."""
    facts = {"magnitude": 6.3, "depth_km": 24, "region": "Japan", "quadrant": "northeast", "max_intensity": "VI"}
    texts = [
        vqa_prompt("?"),
        caption_prompt(),
        description_prompt(),
        coordinates_prompt(),
        coordinates_answer(1.5, 2.5),
    ]
    texts += [description_sentence(**facts), *(text for turn in short_questions(facts) for text in turn)]  # type: ignore[arg-type]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()

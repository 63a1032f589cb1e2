"""The epicentre's coordinates from a shake map: a ladder from "parsed" to "within 50 km".

lmms-eval --model backbone_vlm --tasks seismic_coords --batch_size 16
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from vlm_backbones.errors import DataError
from vlm_backbones.prompts import coordinates_prompt
from vlm_backbones.scoring import coordinate_rungs, parse_coordinates
from vlm_backbones.tasks.common import Doc, answer_text, finite_or_none, record

RATES = ("within_100_km", "within_1000_km", "within_250_km", "within_50_km", "parsed", "schema")


def doc_to_text(doc: Doc) -> str:
    """Return the request, the same for every map."""
    return coordinates_prompt()


def doc_to_target(doc: Doc) -> str:
    """Return the epicentre as the JSON object asked for; degrees, WGS 84, as precise as the catalogue."""
    return json.dumps({"lat": doc["latitude"], "lon": doc["longitude"]})


def process_results(doc: Doc, results: Sequence[Any]) -> dict[str, Any]:
    """Score one answer; never raises, never touches the image."""
    answer = answer_text(results)
    try:
        rungs = coordinate_rungs(answer, doc_to_target(doc))
    except (DataError, KeyError, TypeError):  # a row without an epicentre has no score, and is not wrong
        return {**dict.fromkeys((*RATES, "error_km")), "backbones": record(doc, parsed=None, score=None)}
    place = parse_coordinates(answer)
    error_km = finite_or_none(rungs.pop("error_km"))
    parsed = [place.latitude, place.longitude] if place and math.isfinite(place.latitude) else None
    score = float(rungs["within_100_km"])
    return {
        **{rate: float(rungs[rate]) for rate in RATES},
        "error_km": error_km,
        "backbones": record(doc, parsed=parsed, score=score, rungs={**rungs, "error_km": error_km}),
    }

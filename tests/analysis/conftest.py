"""Small logs in the exact format of lmms-eval, as our wrapper and other models write them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "right \u202eto left\u202c",
    "nul \x00 inside",
    "lone \ud800 surrogate",
    "x" * 1_000_000,
]
COLORS = ["red", "green", "blue", "yellow"]
STRENGTH = {"pocket-llama-1": 0.62, "pocket-llama-2": 0.70, "pocket-llama-3": 0.80}
STAMP = "20260101_120000"


def write_log(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as lmms-eval does: bare NaN, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def plain_row(doc_id: int, target: str, answer: str, score: float | None, **more: Any) -> dict[str, Any]:
    """One sample of a model that is not ours."""
    row = {"doc_id": doc_id, "target": target, "filtered_resps": answer, "doc_hash": "same", "input": f"Q{doc_id}?"}
    return row | ({} if score is None else {"exact_match": score}) | more


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _extras(task: str, doc: int, image: str, logprob: float, condition: str, options: Any = None) -> dict[str, Any]:
    extras = {
        "doc_key": _key(f"{task} {doc}"),
        "image_key": image,
        "cluster": image,
        "logprob": logprob,
        "token_count": 4,
        "truncated": doc % 97 == 0,
        "option_logprobs": options,
        "checkpoint": "abc",
        "condition": condition,
    }
    return {"token_counts": [{"input_tokens": 40, "output_tokens": 4, "reasoning_tokens": extras}]}


def _vqa(rng: np.random.Generator, doc: int, skill: float, condition: str, hostile: bool) -> dict[str, Any]:
    kind = ["color", "count", "left_of"][doc % 3]
    choices = {"color": COLORS, "count": list("123456"), "left_of": ["yes", "no"]}[kind]
    target = choices[doc % len(choices)]
    right = rng.random() < skill
    answer = target if right else choices[(doc + 1 + int(rng.integers(len(choices) - 1))) % len(choices)]
    sure = float(rng.uniform(0.5, 0.99) if right else rng.uniform(0.3, 0.9))
    options = None
    if kind == "left_of":
        other = math.log((1 - sure) / (len(choices) - 1))
        options = {choice: math.log(sure) if choice == answer else other for choice in choices}
        answer = max(options, key=options.__getitem__)
    if hostile and doc < len(HOSTILE):
        answer = HOSTILE[doc]
    score = float(answer == target)
    image = _key(f"scene {doc // 3}")
    return {
        "doc_id": doc,
        "target": target,
        "filtered_resps": answer,
        "doc_hash": "same",
        "vqa_accuracy": score,
        "backbones": {
            "parsed": answer.strip(),
            "score": score,
            "rungs": None,
            "question_type": kind,
            "frame": None,
            "targets": json.dumps({"count": doc % 6}),
        },
        "input": f"What is the {kind} of the object number {doc}?\nAnswer the question using a single word or phrase.",
    } | _extras("vqa_scene", doc, image, math.log(sure), condition, options)


def _coords(rng: np.random.Generator, doc: int, skill: float, condition: str, hostile: bool) -> dict[str, Any]:
    lat, lon = round(30 + (doc * 7 % 150) / 10, 2), round(130 + (doc * 11 % 160) / 10, 2)
    spread = 0.35 if rng.random() < skill else 6.0
    guess = {"lat": round(lat + rng.normal(0, spread), 2), "lon": round(lon + rng.normal(0, spread), 2)}
    answer = "somewhere in Japan" if doc % 50 == 0 else json.dumps(guess)
    distance = 111 * math.hypot(guess["lat"] - lat, (guess["lon"] - lon) * math.cos(math.radians(lat)))
    error = math.nan if doc % 50 == 0 else distance
    within = {f"within_{km}_km": float(error <= km) for km in (1000, 250, 100, 50)}
    return {
        "doc_id": doc,
        "target": json.dumps({"lat": lat, "lon": lon}),
        "filtered_resps": answer,
        "doc_hash": "same",
        **within,
        "parsed": float(doc % 50 != 0),
        "schema": float(doc % 50 != 0),
        "error_km": error,
        "backbones": {
            "parsed": None if doc % 50 == 0 else json.dumps(guess),
            "score": within["within_100_km"],
            "rungs": within,
            "question_type": None,
            "frame": ["Japan", "Chile"][doc % 2],
            "targets": json.dumps({"latitude": lat, "longitude": lon}),
        },
        "input": "Where is the epicentre of this earthquake? Answer as JSON with lat and lon.",
    } | _extras("seismic_coords", doc, _key(f"map {doc}"), -float(rng.exponential(0.6)), condition)


def _description(rng: np.random.Generator, doc: int, skill: float, condition: str, hostile: bool) -> dict[str, Any]:
    facts = int(rng.binomial(5, min(skill + 0.15, 0.99)))
    text = f"A magnitude {5 + doc % 30 / 10:.1f} earthquake struck the northwest of Japan at a depth of {doc} km."
    return {
        "doc_id": doc,
        "target": text,
        "filtered_resps": text.replace("northwest", "northwest" if facts > 4 else "southeast"),
        "doc_hash": "same",
        "fact_score": facts / 5,
        "hallucinated_facts": 5 - facts,
        "rouge_l": str(0.5 + facts / 10),
        "backbones": {
            "parsed": text,
            "score": facts / 5,
            "rungs": None,
            "question_type": None,
            "frame": ["Japan", "Chile"][doc % 2],
            "targets": None,
        },
        "input": "Describe the shake map.",
    } | _extras("seismic_description", doc, _key(f"map {doc}"), -float(rng.exponential(3)), condition)


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "vqa_scene": _vqa,
    "seismic_description": _description,
    "seismic_coords": _coords,
}


def write_study(
    out: Path, docs: int = 60, runs: dict[str, float] | None = None, media: bool = True, hostile: bool = True
) -> Path:
    """Write RUN folders of a study with logs under `clean` and `swap`, run.json and media."""
    for number, (run, skill) in enumerate((runs or STRENGTH).items()):
        folder = out / run
        backbone, _, seed = run.partition("-seed")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"backbone": backbone, "seed": int(seed or 0), "state": "done"}))
        for condition in ("clean", "swap"):
            level = skill if condition == "clean" else 0.2
            for task, make in TASKS.items():
                rng = np.random.default_rng([number, len(condition), len(task)])
                rows = [make(rng, doc, level, condition, hostile and condition == "clean") for doc in range(docs)]
                write_log(folder / "logs" / condition / f"x__{run}" / f"{STAMP}_samples_{task}.jsonl", rows)
        if media:
            _write_media(folder / "media", docs)
    return out


def _write_media(folder: Path, docs: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, count in (("scene", docs // 3 + 1), ("map", docs)):
        for index in range(count):
            picture = Image.new("RGB", (112, 112), "#dfe7ee" if kind == "map" else "#f4f1ea")
            draw = ImageDraw.Draw(picture)
            x, y = 10 + index * 13 % 70, 10 + index * 29 % 70
            color = COLORS[index % 4]
            draw.ellipse((x, y, x + 28, y + 28), fill=color) if kind == "map" else draw.rectangle(
                (x, y, x + 24, y + 24), fill=color
            )
            picture.save(folder / f"{_key(f'{kind} {index}')}.webp", lossless=True)


@pytest.fixture(scope="session")
def study_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, three tasks, two conditions, 120 documents a task, hostile answers among them."""
    return write_study(tmp_path_factory.mktemp("study"), docs=120)


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The makers of logs: `make.row`, `make.log(folder, rows)`, `make.file(path, rows)`, `make.study(folder)`."""

    def log(folder: Path, rows: list[dict[str, Any]], stamp: str = STAMP, task: str = "vqa") -> Path:
        return write_log(folder / f"{stamp}_samples_{task}.jsonl", rows)

    return SimpleNamespace(row=plain_row, log=log, file=write_log, study=write_study)

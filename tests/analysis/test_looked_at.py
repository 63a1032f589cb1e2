"""Whole studies give the tables, the claims and the leaderboard that were looked at, cell by cell.

Each number is checked against another source where it is made; here it is seen that it gets to its place.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from state_shards import write_shard

from vlm_backbones.analysis.leaderboard.write import write_leaderboard
from vlm_backbones.analysis.pipeline import analyze

LOOKED_AT = Path(__file__).with_name("looked_at")
BUILT = Path(__file__).parents[2] / "build" / "looked_at"
"""Where files that differ are written; once they are looked at, they take the others' place."""
STRENGTH = {"llama-1-seed0": 0.55, "llama-1-seed1": 0.6, "llama-3-seed0": 0.85, "llama-3-seed1": 0.8}
DOCS, KEPT = 90, 66
LAYERS, TOKENS, WIDTH = (0, 2), ("last_prompt",), 6
PUBLISHED = """\
architecture,backbone,checkpoint,benchmark,value,n,unit,higher_is_better,source
LLaVA-1.5,Vicuna-7B,llava-v1.5-7b,VQA-Scene,61.5,90,percent,true,a paper
LLaVA-1.5,Vicuna-7B,llava-v1.5-7b,GQA,62.0,12578,percent,true,a paper
LLaVA-1.5,Vicuna-7B,llava-v1.5-7b,MME,1510.7,,points,true,a paper
LLaVA-1.5,Vicuna-7B,llava-v1.5-7b,CHAIR,12.5,500,percent,false,a paper
LLaVA-1.5,Llama-3-8B,,VQA-Scene,70.0,90,percent,true,another paper
LLaVA-1.5,Llama-3-8B,,GQA,64.5,12578,percent,true,another paper
LLaVA-1.5,Llama-3-8B,,MME,1463.2,,points,true,another paper
LLaVA-1.5,Llama-3-8B,,CHAIR,10.1,500,percent,false,another paper
"""


def rewrite(file: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change or leave out rows of a log."""
    rows = [change(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None), encoding="utf-8")


def as_noise(row: dict[str, Any]) -> dict[str, Any]:
    """The clean answer, every seventh one changed."""
    extras = row["token_counts"][0]["reasoning_tokens"]
    extras["condition"] = "noise05"
    if row["doc_id"] % 7 == 0 and "vqa_accuracy" in row:
        row["filtered_resps"], row["vqa_accuracy"] = "nothing", 0.0
        row["backbones"] |= {"parsed": "nothing", "score": 0.0}
    return row


def without_some(row: dict[str, Any]) -> dict[str, Any] | None:
    """An evaluation that lost a document, an answer's confidence, and one option's probability."""
    extras = row["token_counts"][0]["reasoning_tokens"]
    if row["doc_id"] == 50:
        extras["logprob"] = math.nan
    if row["doc_id"] == 53 and extras["option_logprobs"]:
        extras["option_logprobs"]["no"] = math.nan
    return None if row["doc_id"] == 17 else row


def with_few_confidences(row: dict[str, Any]) -> dict[str, Any]:
    """An evaluation that knew the confidence of too few answers for its calibration to be told."""
    row["token_counts"][0]["reasoning_tokens"]["logprob"] = -0.1 if row["doc_id"] < 40 else None
    return row


def write_states(folder: Path, rows: list[dict[str, Any]], rng: np.random.Generator, noise: float) -> None:
    """Hidden states that tell a document's count and place the better the less noise there is."""
    targets = [json.loads(row["backbones"]["targets"]) for row in rows]
    known = np.array([target.get("count", target.get("latitude")) for target in targets], dtype=float)
    base = np.random.default_rng(5).normal(size=(len(rows), len(LAYERS), len(TOKENS), WIDTH))
    base[..., 0] = (known - known.mean())[:, None, None] / known.std()
    states = base + noise * rng.normal(size=base.shape)
    keys = [row["token_counts"][0]["reasoning_tokens"]["doc_key"] for row in rows]
    task = "vqa_scene" if "vqa_accuracy" in rows[0] else "seismic_coords"
    write_shard(folder / f"{task}-rank0-00000.safetensors", states, keys, layers=LAYERS, token_types=TOKENS)


@pytest.fixture(scope="module")
def study(make: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two backbones with two seeds, three tasks, three conditions, hidden states, some rows lost."""
    folder: Path = make.study(
        tmp_path_factory.mktemp("looked-at"), docs=DOCS, runs=STRENGTH, media=False, hostile=False
    )
    for number, run in enumerate(STRENGTH):
        logs = folder / run / "logs"
        shutil.copytree(logs / "clean", logs / "noise05")
        for file in sorted((logs / "noise05").rglob("*.jsonl")):
            rewrite(file, as_noise)
        for task in ("vqa_scene", "seismic_coords"):
            (file,) = (logs / "clean").rglob(f"*_{task}.jsonl")
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()][:KEPT]
            for place, condition in enumerate(("clean", "swap", "noise05", "random_weights")):
                rng = np.random.default_rng([number, place])
                noise = [0.3, 1.0, 0.5, 4.0][place] * (1.5 if "llama-1" in run else 1.0)
                write_states(folder / run / "states" / condition, rows, rng, noise)
        if run == "llama-1-seed0":
            (file,) = (logs / "clean").rglob("*_seismic_description.jsonl")
            rewrite(file, with_few_confidences)
        if run == "llama-3-seed0":
            for file in sorted((logs / "clean").rglob("*.jsonl")):
                rewrite(file, without_some)
    (folder / "study.yaml").write_text("name: looked at\nbackbones: [llama-1, llama-3]\n", encoding="utf-8")
    return folder


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))


def same(found: str, expected: str) -> bool:
    """Equal texts, or numbers equal but for their last digits, which another machine may round otherwise."""
    if found == expected:
        return True
    try:
        return math.isclose(float(found), float(expected), rel_tol=1e-6, abs_tol=1e-9)
    except ValueError:
        return False


def difference(found: str, expected: str, name: str) -> str:
    """The first place where two files are not the same, or nothing."""
    as_table = name.endswith(".csv")
    ours, theirs = (cells(text) if as_table else [[line] for line in text.splitlines()] for text in (found, expected))
    for number, (row, other) in enumerate(zip(ours, theirs, strict=False), 1):
        for place, (cell, known) in enumerate(zip(row, other, strict=False)):
            if not same(cell, known):
                column = f", {theirs[0][place]}" if as_table else ""
                return f"{name}, line {number}{column}: {cell}, looked at was {known}"
        if len(row) != len(other):
            return f"{name}, line {number}: {len(row)} cells, looked at were {len(other)}"
    return "" if len(ours) == len(theirs) else f"{name}: {len(ours)} lines, looked at were {len(theirs)}"


def differing(written: Path, folder: str) -> list[str]:
    """Hold all text files of a folder to those that were looked at; say where they differ and what to do."""
    files = {file.name: file for file in sorted(written.iterdir()) if file.suffix in {".csv", ".md", ".tex"}}
    known = {file.name: file for file in sorted((LOOKED_AT / folder).glob("*"))}
    found = [
        difference(file.read_text("utf-8"), known[name].read_text("utf-8") if name in known else "", name)
        for name, file in files.items()
    ]
    found += [f"{name} was not written" for name in set(known) - set(files)]
    if not any(found):
        return []
    shutil.rmtree(BUILT / folder, ignore_errors=True)
    (BUILT / folder).mkdir(parents=True)
    for file in files.values():
        shutil.copy(file, BUILT / folder)
    return [*filter(None, found), f"look at {BUILT / folder}, then copy it to {LOOKED_AT}"]


def test_the_tables_of_a_study(study: Path, tmp_path: Path) -> None:
    analyze([study], tmp_path, study_dir=study, bootstrap=200, seed=3)
    assert differing(tmp_path / "tables", "tables") == []


def test_a_leaderboard_of_runs_and_a_published_table(study: Path, tmp_path: Path) -> None:
    (tmp_path / "papers.csv").write_text(PUBLISHED, encoding="utf-8")
    write_leaderboard(
        [str(study), str(tmp_path / "papers.csv")],
        tmp_path / "out",
        benchmarks=["VQA-Scene=vqa_scene"],
        bootstrap=200,
        seed=3,
    )
    assert differing(tmp_path / "out", "leaderboard") == []


def test_the_leaderboard_of_the_shipped_study(tmp_path: Path) -> None:
    write_leaderboard(["vip-llava-study"], tmp_path, bootstrap=200, seed=3)
    for name in ("leaderboard_scores.csv", "leaderboard_pairs.csv"):
        (tmp_path / name).unlink()  # long; the other leaderboard holds their columns
    assert differing(tmp_path, "shipped") == []

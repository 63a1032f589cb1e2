"""What a run's own record says of it, and which runs are seeds of each other."""

from __future__ import annotations

__all__ = ["RunInfo", "read_run_info", "tell_apart"]

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlm_backbones.analysis._values import text
from vlm_backbones.errors import LogError
from vlm_backbones.hashes import read_sealed_json
from vlm_backbones.json_text import parse_json
from vlm_backbones.trained_runs import unlike_facts


@dataclass(frozen=True)
class RunInfo:
    """What `run.json` says about a run; a foreign run is its own backbone with seed 0."""

    run: str
    backbone: str
    seed: int
    run_dir: Path | None
    is_best: bool = False
    """Trained at the learning rate that a sweep chose for its backbone."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it was trained from, but for its seed; empty where its record tells nothing."""

    @property
    def group(self) -> str:
        """What its seeds have in common: the backbone, apart by whether a sweep chose the learning rate."""
        return self.backbone + ("-best" if self.is_best else "")


def read_run_info(run: str, run_dir: Path | None) -> RunInfo:
    """Read backbone and seed from `run.json`; the run's own name and seed 0 where there is none."""
    file = run_dir / "run.json" if run_dir else None
    if file is None or not file.is_file():
        return RunInfo(run, run, 0, run_dir)
    try:
        row = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LogError(f"{file} is not valid JSON ({error}). Restore it or remove it.") from error
    if not isinstance(row, dict):
        raise LogError(f"{file} holds no JSON object. Restore it or remove it.")
    if read_sealed_json(file) is None:
        raise LogError(
            f"{file} was edited or is damaged (its own_sha256 is of another content). Run the study again, which "
            "writes it anew; or restore it."
        )
    given = row.get("config")
    config = given if isinstance(given, dict) else {}
    backbone = row.get("backbone") or config.get("backbone") or run
    seed = row.get("seed", config.get("seed", 0))
    if isinstance(backbone, dict):
        backbone = backbone.get("id", run)
    if not isinstance(seed, int | None) or abs(seed or 0) >= 2**63:
        raise LogError(f"{file}: seed is {str(seed)[:60]!r}, expected a whole number. Restore it or remove it.")
    facts = row.get("facts")
    shared = {key: value for key, value in facts.items() if key != "seed"} if isinstance(facts, dict) else {}
    return RunInfo(run, text(str(backbone)) or run, seed or 0, run_dir, row.get("is_best") is True, shared)


def tell_apart(runs: Mapping[str, RunInfo], notes: list[str]) -> dict[str, RunInfo]:
    """Let runs of one backbone that are no seeds of each other stand for themselves, each with a note.

    Two of one seed, or trained otherwise than by their seed, are not: they come from different studies.
    """
    found = dict(runs)
    for group in dict.fromkeys(info.group for info in runs.values()):
        own = [info for info in runs.values() if info.group == group]
        seeds = {info.seed for info in own}
        is_alike = not any(unlike_facts(info.facts, own[0].facts) for info in own[1:])
        if len(seeds) == len(own) and is_alike:
            continue
        names = ", ".join(info.run for info in own)
        why = "share a seed" if len(seeds) < len(own) else "were trained otherwise"
        notes.append(f"{names}: runs of {group} that {why}; they are no seeds of each other, each stands for itself.")
        found |= {info.run: replace(info, backbone=info.run, is_best=False) for info in own}
    return found

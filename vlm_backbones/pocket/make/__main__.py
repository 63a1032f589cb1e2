"""Rebuild the pocket parts: `python -m vlm_backbones.pocket.make [--out DIR] [--work DIR] [--shorten N]`.

Seeded and resumable: what is finished in `--work` is not trained again. About an hour and a half on two CPU
cores that have bfloat16 instructions. The real ratio of pretraining tokens of LLaMA-1, -2 and Llama-3 is 1 : 2 : 15;
minutes allow 1 : 2 : 3.4 here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from vlm_backbones.cache import atomic_write_text, cache_dir
from vlm_backbones.pocket.make.manifest import MAKER_VERSION, write_manifest
from vlm_backbones.pocket.make.pretrain import BackbonePlan, pretrain_backbone
from vlm_backbones.pocket.make.tower import TowerPlan, train_tower
from vlm_backbones.pocket.make.vocabulary import CLASSIC, HEADERS

ASSETS = Path(__file__).parent.parent / "assets"
TOWER = "pocket-vision"


BACKBONES = (
    BackbonePlan("pocket-llama-1", CLASSIC, 768, False, 256, 344, 4, 1e4, 4000, 500, seed=1),
    BackbonePlan("pocket-llama-2", CLASSIC, 768, False, 512, 344, 4, 1e4, 8000, 1000, seed=2),
    BackbonePlan("pocket-llama-3", HEADERS, 2048, True, 1024, 448, 2, 5e5, 12000, 1500, seed=3),
)


def plans(shorten: int) -> dict[str, TowerPlan | BackbonePlan]:
    """Return the plan of each part, `shorten` times shorter."""
    tower = TowerPlan(steps=TowerPlan.steps // shorten, pool=max(64, TowerPlan.pool // shorten))
    passages = BackbonePlan.vocabulary_passages // min(shorten, 8)
    shortened = [
        replace(
            plan, steps=plan.steps // shorten, place_steps=plan.place_steps // shorten, vocabulary_passages=passages
        )
        for plan in BACKBONES
    ]
    return {TOWER: tower, **{plan.name: plan for plan in shortened}}


def make_part(name: str, plan: TowerPlan | BackbonePlan, out: Path, work: Path) -> None:
    """Train one part unless its outcome is in `work` already; the outcome is written last."""
    outcome = work / f"{name}.json"
    if outcome.is_file():
        return
    if isinstance(plan, TowerPlan):
        row = train_tower(out / name, work, plan, _say)
    else:
        row = pretrain_backbone(plan, out / name, work, _say)
    for path in (out / name).iterdir():
        path.chmod(0o644)  # safetensors writes for its owner alone; a package is read by everyone
    atomic_write_text(outcome, json.dumps({"maker_version": MAKER_VERSION, **row}, indent=1))


def _say(message: str) -> None:
    print(message, flush=True)


def main(argv: list[str] | None = None) -> None:
    """Make every part, one process a part and as many side by side as there are cores; then the manifest."""
    parser = argparse.ArgumentParser(prog="python -m vlm_backbones.pocket.make", description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder of the parts")
    parser.add_argument("--work", type=Path, default=cache_dir() / "pocket-maker", help="resumable state")
    parser.add_argument("--shorten", type=int, default=1, help="train this many times fewer steps")
    parser.add_argument("--part", help="make one part only")
    given = parser.parse_args(argv)
    todo = plans(given.shorten)
    given.work.mkdir(parents=True, exist_ok=True)
    if given.part:
        torch.set_num_threads(1)
        make_part(given.part, todo[given.part], given.out, given.work)
        return
    waiting = sorted((name for name in todo if not (given.work / f"{name}.json").is_file()), reverse=True)
    running: list[subprocess.Popen[bytes]] = []
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            command = [sys.executable, "-m", "vlm_backbones.pocket.make", "--part", waiting.pop(0)]
            options = ["--out", str(given.out), "--work", str(given.work), "--shorten", str(given.shorten)]
            running.append(subprocess.Popen([*command, *options]))
        if running.pop(0).wait() != 0:
            for process in running:
                process.terminate()
            sys.exit("a part failed; mend what it says and run again: finished parts and saved steps are kept")
    write_manifest(given.out, {name: json.loads((given.work / f"{name}.json").read_text()) for name in todo})


if __name__ == "__main__":
    main()

"""Choose a backbone's learning rate from its trials' answers to the validation split.

python -m vlm_backbones.analysis.sweep --out OUT/sweep/BACKBONE.json 1e-05=OUT/sweep/BACKBONE-lr1e-05 ...
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_backbones.analysis.record import lower_is_better
from vlm_backbones.analysis.samples import load_logs
from vlm_backbones.analysis.table_scores import scores
from vlm_backbones.cache import atomic_write_text
from vlm_backbones.errors import LogError, VlmBackbonesError
from vlm_backbones.hashes import sealed_json

__all__ = ["VERSION", "choose_learning_rate", "main"]

VERSION = 1
"""Raised when another rate could be chosen from the same logs."""

_NORMAL_95 = 1.959964


def main(argv: Sequence[str] | None = None) -> int:
    """Write the choice; 2 on what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="+", metavar="RATE=FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="file for the choice")
    parser.add_argument("--bootstrap", type=int, default=10_000, help="draws of each interval")
    arguments = parser.parse_args(argv)
    pairs = (trial.partition("=") for trial in arguments.trials)
    try:
        choice = choose_learning_rate({float(rate): Path(folder) for rate, _, folder in pairs}, arguments.bootstrap)
        atomic_write_text(arguments.out, sealed_json(choice))
    except VlmBackbonesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out.stem}: learning rate {choice['learning_rate']:g}")
    return 0


def choose_learning_rate(trials: Mapping[float, Path], bootstrap: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Return the learning rate with the highest mean score over the tasks, and every trial's scores.

    Parameters
    ----------
    trials : learning rate -> folder with the logs of that trial, all of one backbone and the same documents.
    bootstrap : draws of each interval.

    Returns
    -------
    `learning_rate`, and `trials`: for each rate the mean over the tasks, its 95 % interval (from the tasks' own, as of
    independent questions), n and n_missing, and the same of each task. Of equal means the smaller rate is chosen.

    Raises
    ------
    LogError
        If a trial lacks a task's answers, or no task has a score that is a share of right answers.
    """
    named = {f"{rate!r}": Path(folder) for rate, folder in trials.items()}
    logs = load_logs([], named)
    headline = {
        task: metric
        for task, metric in logs.headline.items()
        if task not in logs.without_threshold and not lower_is_better(metric)
    }
    if not headline:
        raise LogError("no task has a score that is a share of right answers: a sweep cannot choose by them.")
    table = scores(logs, bootstrap=bootstrap, seed=seed).filter(condition="clean")
    found: dict[str, dict[str, Any]] = {name: {} for name in named}
    for row in table.to_dicts():
        if headline.get(row["task"]) == row["metric"]:
            kept = ("value", "ci_low", "ci_high", "n", "n_missing")
            found[row["run"]][row["task"]] = {key: row[key] for key in kept}
    for name, tasks in found.items():
        if lacking := [task for task in headline if not tasks.get(task, {}).get("n")]:
            raise LogError(f"{named[name]} holds no scored answers to {', '.join(lacking)}. Evaluate the trial again.")
    rows = [{"learning_rate": float(name)} | _mean(tasks) | {"tasks": tasks} for name, tasks in found.items()]
    best = min(rows, key=lambda row: (-row["score"], row["learning_rate"]))
    return {"learning_rate": best["learning_rate"], "split": "validation", "trials": rows}


def _mean(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    count = len(tasks)
    score = sum(row["value"] for row in tasks.values()) / count
    errors = [(row["ci_high"] - row["ci_low"]) / (2 * _NORMAL_95) for row in tasks.values()]
    half = _NORMAL_95 * math.sqrt(sum(error**2 for error in errors)) / count
    sizes = {key: sum(row[key] for row in tasks.values()) for key in ("n", "n_missing")}
    return {"score": score, "ci_low": max(0.0, score - half), "ci_high": min(1.0, score + half)} | sizes


if __name__ == "__main__":
    sys.exit(main())

"""Seconds of the tables `agreement` and `scores` against resampling question by question with scipy.

    python benchmarks/agreement_speed.py [--runs 3] [--questions 10000] [--draws 1000] [--repeats 5] [--no-peer]

Ours computes every column of both tables: the intervals come from multinomial draws of the counts, so that their cost
does not grow with the questions. The peer computes the intervals alone, of phi and of the difference of every two runs,
with `scipy.stats.bootstrap(paired=True)`. The two alternate and the medians are compared; the intervals of both are
printed. `--questions 100000 --draws 10000 --no-peer` is the size that we aim to finish within 5 s. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from itertools import combinations

import _measure
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import bootstrap

from vlm_backbones.analysis.run_info import RunInfo
from vlm_backbones.analysis.samples import SAMPLE_SCHEMA, Logs
from vlm_backbones.analysis.table_agreement import agreement
from vlm_backbones.analysis.table_scores import scores

Floats = NDArray[np.float64]


def main() -> int:
    """Measure both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true", help="measure ours alone: scipy holds draws x questions")
    arguments = parser.parse_args()
    correct = make_correct(arguments.runs, arguments.questions)
    logs = make_logs(correct)
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for repeat in range(arguments.repeats):
        start = time.perf_counter()
        table = agreement(logs.samples, bootstrap=arguments.draws)
        scores(logs, bootstrap=arguments.draws)
        seconds["ours"].append(time.perf_counter() - start)
        if table["phi_low"].is_nan().any():
            raise SystemExit("a phi has no interval: ours did not do the work")
        print(f"repeat {repeat + 1}: ours {seconds['ours'][-1]:.2f} s, phi of the first two runs", end=" ")
        print(f"[{table['phi_low'][0]:.4f}, {table['phi_high'][0]:.4f}]", flush=True)
        if not arguments.no_peer:
            start = time.perf_counter()
            low, high = resample(correct, arguments.draws)
            seconds["peer"].append(time.perf_counter() - start)
            print(f"repeat {repeat + 1}: peer {seconds['peer'][-1]:.2f} s, phi [{low:.4f}, {high:.4f}]", flush=True)
    middle = {name: round(statistics.median(values), 3) if values else None for name, values in seconds.items()}
    ratio = round(middle["peer"] / middle["ours"], 1) if middle["peer"] and middle["ours"] else None
    print(json.dumps({
        "name": "agreement_speed", **middle, "ratio": ratio, "unit": "s", "repeats": arguments.repeats,
        "runs": arguments.runs, "questions": arguments.questions, "draws": arguments.draws,
        "against": "scipy.stats.bootstrap", "machine": _measure.machine(None, "numpy", "polars", "scipy"),
    }))  # fmt: skip
    return 0


def make_correct(runs: int, questions: int) -> Floats:
    """0/1 outcomes that agree more than chance: (runs, questions)."""
    rng = np.random.default_rng(0)
    difficulty = rng.random(questions)
    skill = np.linspace(0.5, 0.7, runs)[:, None]
    return (0.6 * difficulty + 0.4 * rng.random((runs, questions)) < skill).astype(float)


def make_logs(correct: Floats) -> Logs:
    """Samples as `load_logs` finds them in logs of another model: questions and short answers, no keys."""
    parts = []
    for run, row in enumerate(correct):
        part = pl.DataFrame(
            {"score": row, "correct": row == 1, "doc_id": [str(number) for number in range(row.size)]}
        ).with_columns(
            pl.lit(f"run {run}").alias("run"),
            pl.lit("vqa").alias("task"),
            pl.lit("clean").alias("condition"),
            pl.lit(f"run {run}").alias("backbone"),
            pl.format("doc {}", "doc_id").alias("cluster"),
            pl.format("What is the colour of object number {}?\nAnswer with one word.", "doc_id").alias("question"),
            pl.lit("red").alias("target"),
            pl.when(pl.col("score") == 1).then(pl.lit("red")).otherwise(pl.lit("blue")).alias("parsed"),
        )
        absent = [pl.lit(None, kind).alias(name) for name, kind in SAMPLE_SCHEMA.items() if name not in part.columns]
        parts.append(part.with_columns(absent).select(list(SAMPLE_SCHEMA)))
    samples = pl.concat(parts)
    metrics = samples.select(
        "run", "task", "condition", "doc_id", "cluster", pl.lit("acc").alias("metric"), pl.col("score").alias("value")
    )
    runs = {name: RunInfo(name, name, 0, None) for name in samples["run"].unique(maintain_order=True)}
    return Logs(samples, metrics, {"vqa": "acc"}, runs)


def resample(correct: Floats, draws: int) -> tuple[float, float]:
    """Intervals of phi and of the difference for every two runs; return phi's of the first two."""
    found = []
    for a, b in combinations(correct, 2):
        for statistic in (phi, difference):
            drawn = bootstrap(
                (a, b), statistic, paired=True, vectorized=True, n_resamples=draws, batch=100, method="percentile"
            )
            found.append((float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)))
    return found[0]


def phi(a: Floats, b: Floats, axis: int = -1) -> Floats:
    """Pearson correlation of 0/1 outcomes."""
    p, q = a.mean(axis=axis), b.mean(axis=axis)
    return np.asarray(((a * b).mean(axis=axis) - p * q) / np.sqrt(p * (1 - p) * q * (1 - q)))


def difference(a: Floats, b: Floats, axis: int = -1) -> Floats:
    """Difference of the two accuracies."""
    return np.asarray(b.mean(axis=axis) - a.mean(axis=axis))


if __name__ == "__main__":
    sys.exit(main())

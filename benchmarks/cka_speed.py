"""Seconds and memory of CKA between all layers of two runs, against numpy in float64, pair by pair.

    python benchmarks/cka_speed.py [--documents 2000] [--hidden 1024] [--layers 8] [--repeats 5] [--no-peer]

Two runs of random states that share a part. Ours gives biased and debiased CKA of every two of the 16 layers from one
walk over tiles; the peer is Kornblith's formula for linear CKA, |X'Y|^2 / (|X'X| |Y'Y|), on the 64 pairs of a layer of
one run and a layer of the other, the two layers' own terms computed once. The two alternate and the medians are
compared, and so are their values. `--documents 10000 --hidden 4096 --repeats 1 --no-peer` is the size that we aim to
finish within 120 s and 4 GB. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time

import _measure
import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis.cka import cka_matrices

Floats32 = NDArray[np.float32]


def main() -> int:
    """Measure both and print; exit 1 where their values differ by more than 1e-4."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true", help="measure ours alone: the peer takes minutes")
    arguments = parser.parse_args()
    states = make_states(2 * arguments.layers, arguments.documents, arguments.hidden)
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    cpu: dict[str, list[float]] = {"ours": [], "peer": []}
    gap = 0.0
    for repeat in range(arguments.repeats):
        start, worked = time.perf_counter(), time.process_time()
        ours, _ = cka_matrices(states)
        seconds["ours"].append(time.perf_counter() - start)
        cpu["ours"].append(time.process_time() - worked)
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KB
        print(f"repeat {repeat + 1}: ours {seconds['ours'][-1]:.2f} s, {peak_gb:.2f} GB", flush=True)
        if not arguments.no_peer:
            start, worked = time.perf_counter(), time.process_time()
            peer = compare_layers(states[: arguments.layers], states[arguments.layers :])
            seconds["peer"].append(time.perf_counter() - start)
            cpu["peer"].append(time.process_time() - worked)
            gap = float(np.abs(ours[: arguments.layers, arguments.layers :] - peer).max())
            print(f"repeat {repeat + 1}: peer {seconds['peer'][-1]:.2f} s, differs by {gap:.1e}", flush=True)
    middle = {name: round(statistics.median(values), 3) if values else None for name, values in seconds.items()}
    ratio = round(middle["peer"] / middle["ours"], 1) if middle["peer"] and middle["ours"] else None
    print(json.dumps({
        "name": "cka_speed", **middle, "ratio": ratio, "unit": "s", "repeats": arguments.repeats,
        "documents": arguments.documents, "hidden": arguments.hidden, "layers": arguments.layers,
        "cpu_s": {name: round(statistics.median(values), 3) for name, values in cpu.items() if values},
        "peak_gb": round(peak_gb, 2), "largest_difference": gap,
        "against": "numpy in float64", "machine": _measure.machine(None, "numpy"),
    }))  # fmt: skip
    return 0 if gap < 1e-4 else 1


def make_states(count: int, documents: int, hidden: int) -> list[Floats32]:
    """States that share a part, each with noise of its own: arrays (documents, hidden)."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((documents, hidden), dtype=np.float32)
    return [
        shared + np.float32(place / 4) * rng.standard_normal(shared.shape, dtype=np.float32) for place in range(count)
    ]


def compare_layers(first: list[Floats32], second: list[Floats32]) -> NDArray[np.float64]:
    """CKA of each layer of one run with each of the other, in float64: (layers, layers)."""
    one, other = ([x.astype(np.float64) - x.mean(0, dtype=np.float64) for x in side] for side in (first, second))
    own = [[np.linalg.norm(x.T @ x) for x in side] for side in (one, other)]
    return np.array(
        [
            [np.linalg.norm(x.T @ y) ** 2 / (a * b) for y, b in zip(other, own[1], strict=True)]
            for x, a in zip(one, own[0], strict=True)
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

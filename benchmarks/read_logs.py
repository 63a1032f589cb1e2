"""Samples a second of `load_logs` against `pandas.read_json(lines=True)`, on logs in lmms-eval's own format.

    python benchmarks/read_logs.py [--runs 4] [--questions 20000] [--kind generate] [--repeats 5] [--no-peer]
    python benchmarks/read_logs.py --analyze [...]

The logs are made in a temporary folder: the runs answer the same questions, one of them under another prompt. Each
reading is a process of its own, so that its peak memory can be told; the two alternate and the medians are compared.
pandas only reads the five keys that a table of scores needs; ours finds metric, answer, options, confidence and cluster
too. `--runs 26 --questions 4377 --kind choice` is the size of a usual study, `--runs 10 --questions 1000000 --repeats 1
--no-peer` the largest that we aim at (4 GB of disk).

With `--analyze` they are not read alone: `vlm-backbones analyze` makes tables and report of them, in a fresh process.
There is no peer; at the largest size 120 s and 2 GB on two cores are to be reached. Memory is the most that the process
and its children held together. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _measure

WORDS = [
    "what", "which", "colour", "shape", "number", "object", "left", "right", "above", "below", "picture", "man",
    "woman", "dog", "car", "table", "holding", "wearing", "standing", "near", "street", "sign", "window", "two",
    "behind", "small", "large", "food", "animal", "room",
]  # fmt: skip
HASH = "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"
PROMPTS = ("{}\nAnswer the question using a single word or phrase.", "Question: {} Short answer:")
KEYS = {
    "generate": ["doc_id", "target", "filtered_resps", "exact_match", "input"],
    "choice": ["doc_id", "target", "filtered_resps", "acc", "input"],
}


def main() -> int:
    """Make the logs, measure both readers and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--kind", choices=sorted(KEYS), default="generate")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--analyze", action="store_true", help="measure the whole analysis, not the reading alone")
    parser.add_argument("--no-peer", action="store_true", help="measure ours alone: pandas needs 2 KB a sample")
    parser.add_argument("--read", nargs=2, metavar=("READER", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        return read_once(arguments.read[0], Path(arguments.read[1]))
    samples = arguments.runs * arguments.questions
    with tempfile.TemporaryDirectory() as folder:
        size = write_logs(Path(folder), arguments.runs, arguments.questions, arguments.kind)
        print(f"{samples:,} samples of {size / samples:.0f} bytes", flush=True)
        if arguments.analyze:
            print(json.dumps(analysis(Path(folder), arguments)))
            return 0
        measured: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
        for repeat in range(arguments.repeats):
            for reader in ("ours",) if arguments.no_peer else ("ours", "peer"):
                measured[reader].append(measure(reader, folder))
                shown = ", ".join(f"{value:,.1f} {name}" for name, value in measured[reader][-1].items())
                print(f"repeat {repeat + 1}: {reader} {shown}", flush=True)
    print(json.dumps(summary(measured, samples) | {
        "name": "read_logs", "kind": arguments.kind, "runs": arguments.runs, "questions": arguments.questions,
        "bytes_a_sample": round(size / samples), "unit": "samples/s", "repeats": arguments.repeats,
        "against": "pandas.read_json", "machine": _measure.machine(None, "polars", "pandas"),
    }))  # fmt: skip
    return 0


def analysis(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Analyze the logs this often; return the medians of seconds and memory, and the size of the page."""
    taken, held, out = [], [], folder / "out"
    command = [sys.executable, "-m", "vlm_backbones.cli", "analyze", str(folder), "--out", str(out)]
    for repeat in range(arguments.repeats):
        seconds, peak_gb = _measure.run_command(command)
        taken.append(seconds)
        held.append(peak_gb)
        shown = f"{seconds.wall:.1f} s, {seconds.cpu:.1f} s of the cores, {peak_gb:.2f} GB"
        print(f"repeat {repeat + 1}: {shown}", flush=True)
    return {
        "name": "analyze", "ours": round(statistics.median(run.wall for run in taken), 1), "peer": None, "ratio": None,
        "unit": "s", "repeats": arguments.repeats, "kind": arguments.kind, "runs": arguments.runs,
        "questions": arguments.questions, "cpu_seconds": round(statistics.median(run.cpu for run in taken), 1),
        "peak_gb": round(max(held), 2), "page_mb": round((out / "report.html").stat().st_size / 1e6, 1),
        "machine": _measure.machine(None, "polars"),
    }  # fmt: skip


def summary(measured: dict[str, list[dict[str, float]]], samples: int) -> dict[str, object]:
    """Median rate, seconds, processor seconds and peak memory of each reader, and the ratio of the rates."""
    middle = {
        reader: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for reader, rows in measured.items()
        if rows
    }
    rates = {reader: round(samples / middle[reader]["seconds"]) if reader in middle else None for reader in measured}
    ratio = round(rates["ours"] / rates["peer"], 2) if rates["ours"] and rates["peer"] else None
    return {**rates, "ratio": ratio, "medians": {k: {n: round(x, 2) for n, x in v.items()} for k, v in middle.items()}}


def measure(reader: str, folder: str) -> dict[str, float]:
    """Read the folder in a new process; return its seconds and megabytes."""
    command = [sys.executable, __file__, "--read", reader, folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def read_once(reader: str, folder: Path) -> int:
    """Read the folder here and print seconds, processor seconds and peak megabytes; imports are not timed."""
    if reader == "ours":
        import vlm_backbones.analysis.samples  # noqa: F401
    else:
        import pandas  # noqa: F401
    start, worked = time.perf_counter(), time.process_time()
    (read_ours if reader == "ours" else read_peer)(folder)
    seconds, cpu = time.perf_counter() - start, time.process_time() - worked
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KB
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_gb": peak_gb}))
    return 0


def read_ours(folder: Path) -> int:
    """Return the number of samples that `load_logs` finds."""
    from vlm_backbones.analysis.samples import load_logs

    return load_logs([folder]).samples.height


def read_peer(folder: Path) -> int:
    """Return the number of rows in one pandas frame of all files."""
    import pandas

    parts = []
    for path in sorted(folder.rglob("*.jsonl")):
        columns = KEYS[path.parent.name.split("-")[0]]
        parts.append(pandas.read_json(path, lines=True)[columns].assign(run=path.parent.name))
    return len(pandas.concat(parts, ignore_index=True))


def write_logs(folder: Path, runs: int, questions: int, kind: str) -> int:
    """Write one log a run as lmms-eval does; return the bytes written."""
    size = 0
    for run in range(runs):
        asked, answered = random.Random(0), random.Random(run + 1)
        prompt = PROMPTS[run == 1]
        path = folder / f"{kind}-{run}" / "20260101_120000_samples_vqa.jsonl"
        path.parent.mkdir()
        with path.open("w", encoding="utf-8") as log:
            for doc_id in range(questions):
                question = prompt.format(" ".join(asked.choices(WORDS, k=16)) + "?")
                log.write(json.dumps(make_row(kind, doc_id, question, asked, answered)) + "\n")
        size += path.stat().st_size
    return size


def make_row(kind: str, doc_id: int, question: str, asked: random.Random, answered: random.Random) -> dict[str, object]:
    """One sample: a short answer, or log-probabilities of four options."""
    right = answered.random() < 0.6
    if kind == "generate":
        target = asked.choice(WORDS)
        answer = target if right else answered.choice(WORDS)
        said: dict[str, object] = {"filtered_resps": [answer], "doc_hash": HASH, "exact_match": float(answer == target)}
    else:
        target = str(asked.randrange(4))
        logprobs = [answered.uniform(-9, -2) for _ in range(4)]
        logprobs[int(target)] += 6 if right else 0
        best = logprobs.index(max(logprobs))
        pairs = [[f"{value:.6f}", str(place == best)] for place, value in enumerate(logprobs)]
        said = {"filtered_resps": pairs, "doc_hash": HASH, "acc": float(str(best) == target)}
    return {"doc_id": doc_id, "target": target, **said, "input": question}


if __name__ == "__main__":
    sys.exit(main())

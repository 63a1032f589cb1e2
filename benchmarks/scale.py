"""Does cost grow with the work alone? Whole commands at 1, 4 and 16 times the size: training, evaluation, analysis.

    python benchmarks/scale.py [--work train,eval,analyze] [--processes 1,2] [--repeats 3]

Sizes: optimizer steps of the pocket study's two stages, documents of `vqa_scene` (its own, again and again, with other
pictures), and questions of three made-up logs. Each command is a process of its own; the time of a step more is taken
from 4 to 16 times and compared with that from 1 to 4 times, since what a command costs before its first step would hide
growth. A ratio of 1 is linear; the last column is the largest resident set. Seconds are of the cores, which other work
disturbs less. With more than one process, training and evaluation run under torchrun (gloo). The last line is JSON, its
ratio the worst of all; exit 1 where that is more than 1.3, or where the first step more took no time that can be told.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _measure

TIMES = (1, 4, 16)
BASE = {"train": 25, "eval": 1_000, "analyze": 4_000}
MOST = 1.3
BACKBONE = "pocket-llama-3"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default=",".join(BASE), help="of train, eval, analyze")
    parser.add_argument("--processes", default="1,2", help="of training and evaluation")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        commands = Commands(Path(folder))
        for work in given.work.split(","):
            counts = [1] if work == "analyze" else [int(count) for count in given.processes.split(",")]
            for processes in counts:
                rows.append(measure(getattr(commands, work), work, processes, given.repeats))
                print(json.dumps(rows[-1]), flush=True)
    worst = max(float(row["ratio"]) for row in rows)
    print(json.dumps({
        "name": "scale", "ours": worst, "peer": 1.0, "ratio": worst, "unit": "time of a step at 16 times, of that at 4",
        "repeats": given.repeats, "rows": rows, "machine": _measure.machine(1),
    }))  # fmt: skip
    return 0 if worst <= MOST else 1


class Commands:
    """The command lines, and what they need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = itertools.count()

    def train(self, steps: int, processes: int) -> list[str]:
        """Train the pocket study's third backbone for so many steps a stage."""
        out = self.folder / f"train-{next(self.names)}"
        changes = [f"recipe.align.steps={steps}", f"recipe.finetune.steps={steps}", f"training.processes={processes}"]
        sets = [part for change in changes for part in ("--set", change)]
        return [*CLI, "train", "pocket", "--backbone", BACKBONE, *sets, "--out", str(out)]

    def eval(self, documents: int, processes: int) -> list[str]:
        """Answer so many documents with a checkpoint of two steps."""
        checkpoint = self.folder / "checkpoint"
        if not checkpoint.exists():
            subprocess.run(self.train(2, 1), check=True, env=environment(), stdout=subprocess.DEVNULL)
            found = next(self.folder.glob(f"train-*/{BACKBONE}/checkpoint"))
            checkpoint.symlink_to(found)
        if not (self.folder / "data").exists():
            write_documents(self.folder / "data", max(TIMES) * BASE["eval"])
        start = (
            ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
        )
        return [
            "env", f"VLM_BACKBONES_DATA={self.folder / 'data'}", sys.executable, *start,
            "-m", "lmms_eval", "--model", "backbone_vlm", "--tasks", "vqa_scene",
            "--model_args", f"pretrained={checkpoint}", "--batch_size", "16", "--limit", str(documents),
        ]  # fmt: skip

    def analyze(self, questions: int, processes: int) -> list[str]:
        """Analyse three logs of so many questions."""
        from report_explorer import write_logs

        logs = self.folder / f"logs-{questions}"
        if not logs.exists():
            write_logs(logs, questions, 3)
        return [*CLI, "analyze", str(logs), "--bootstrap", "1000", "--out", str(self.folder / f"report-{questions}")]


def write_documents(folder: Path, count: int) -> None:
    """Write `vqa_scene` with so many documents: its test split over and over, each time with pictures of its own."""
    from datasets import Dataset, DatasetDict, load_from_disk

    from vlm_backbones.tasks.data import dataset_dir

    test = load_from_disk(str(dataset_dir("vqa_scene")))["test"]

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(count):
            row = test[number % len(test)]
            row["image"].putpixel((0, 0), (number // len(test), 0, 0))
            yield row

    made = Dataset.from_generator(rows, features=test.features)
    DatasetDict({"test": made}).save_to_disk(folder / "vqa_scene")


CLI = [sys.executable, "-m", "vlm_backbones.cli"]


def environment() -> dict[str, str]:
    """Return the environment of a command: one thread a process, so that processes do not fight for cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "HF_HUB_OFFLINE": "1"}


def measure(command: Callable[[int, int], list[str]], work: str, processes: int, repeats: int) -> dict[str, object]:
    """Return the median of the cores' seconds and memory at each size, and how the time of one step more has grown."""
    sizes = [BASE[work] * times for times in TIMES]
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    memory: dict[int, float] = dict.fromkeys(sizes, 0.0)
    for _ in range(repeats):
        for size in sizes:
            line = command(size, processes)
            taken, held = run(line)
            memory[size] = max(memory[size], held)
            seconds[size].append(taken)
    medians = [statistics.median(seconds[size]) for size in sizes]
    peaks = [round(memory[size], 2) for size in sizes]
    small, large = ((medians[at + 1] - medians[at]) / (sizes[at + 1] - sizes[at]) for at in (0, 1))
    return {
        "work": work, "processes": processes, "sizes": sizes, "core_seconds": [round(each, 2) for each in medians],
        "ratio": round(large / small, 2) if small > 0 else math.inf, "largest_gb": peaks,
    }  # fmt: skip


def run(line: list[str]) -> tuple[float, float]:
    """Run a command; return the cores' seconds and the largest resident set of a process, GB."""
    process = subprocess.Popen(line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(line)} failed:\n{said}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


if __name__ == "__main__":
    sys.exit(main())

"""What the benchmarks share: interleaved runs, medians, the machine, the last line as JSON."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import psutil

__all__ = ["Seconds", "arguments", "compare", "machine", "print_result", "run_command", "start"]


@dataclass(frozen=True)
class Seconds:
    """One run: on the clock, and of the cores (its children's too), which other work on the machine disturbs less."""

    wall: float
    cpu: float


def arguments(description: str | None, *, samples: int, repeats: int = 5) -> argparse.ArgumentParser:
    """Return a parser of what all evaluation benchmarks take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder of a checkpoint; default: random weights of --shape")
    parser.add_argument("--shape", default="pocket", help="pocket (default), pocket-576, llava-1.5-7b or llama-3-8b")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--samples", type=int, default=samples, help=f"questions (default: {samples})")
    parser.add_argument("--repeats", type=int, default=repeats, help=f"runs of each side (default: {repeats})")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (default: all cores)")
    parser.add_argument("--batch-size", default="auto", help="ours, as for lmms-eval (default: auto)")
    return parser


def start(threads: int) -> None:
    """Set the threads of this process, before torch is used."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    torch.set_num_threads(threads)


def compare(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[Seconds]]:
    """Run each side in turn, this often; the sides alternate, so that a slow minute meets both."""
    seconds: dict[str, list[Seconds]] = {name: [] for name in runs}
    for repeat in range(repeats):
        for name, run in runs.items():
            others = set(multiprocessing.active_children())  # a peer's own engine, which stays
            begun = time.perf_counter(), _cpu_seconds()
            run()
            for process in set(multiprocessing.active_children()) - others:
                process.join()  # its seconds count once it has ended
            taken = Seconds(time.perf_counter() - begun[0], _cpu_seconds() - begun[1])
            seconds[name].append(taken)
            print(f"repeat {repeat + 1}: {name} {taken.wall:.3f} s, {taken.cpu:.3f} s of the cores", flush=True)
    return seconds


def run_command(command: Sequence[str]) -> tuple[Seconds, float]:
    """Run a command; return its seconds and the most memory, GB (2^30), that it and its children held at once.

    Every 50 ms their proportional set sizes are added (Linux): a page that processes share counts once.
    """
    begun, peak = (time.perf_counter(), _cpu_seconds()), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _held_bytes(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return Seconds(time.perf_counter() - begun[0], _cpu_seconds() - begun[1]), peak / 2**30


def print_result(
    name: str,
    seconds: Mapping[str, list[Seconds]],
    *,
    against: str,
    count: int | None,
    threads: int,
    packages: Sequence[str] = (),
    **more: Any,
) -> None:
    """Print the comparison of "ours" and "peer" as one line of JSON.

    With a count the sides are shown as rates a second, without one as seconds. The ratio says how many times as fast
    as the peer, which is called `against`, ours is; `packages` are the peer's beside torch and transformers.
    """
    wall = {side: statistics.median(run.wall for run in runs) for side, runs in seconds.items()}
    cpu = {side: statistics.median(run.cpu for run in runs) for side, runs in seconds.items()}
    values = {side: count / value if count else value for side, value in wall.items()}
    spread = {side: [round(min(r.wall for r in runs), 3), round(max(r.wall for r in runs), 3)]
              for side, runs in seconds.items()}  # fmt: skip
    print(json.dumps({
        "name": name, "ours": round(values["ours"], 3), "peer": round(values["peer"], 3),
        "ratio": round(wall["peer"] / wall["ours"], 2), "unit": "samples/s" if count else "s",
        "repeats": len(seconds["ours"]), "ratio_cpu_seconds": round(cpu["peer"] / cpu["ours"], 2),
        "seconds_min_max": spread, "against": against, **more,
        "machine": machine(threads, "torch", "transformers", *packages),
    }))  # fmt: skip


def machine(threads: int | None = None, *packages: str) -> dict[str, Any]:
    """Return what a number depends on; of the packages, by default torch and transformers, the versions."""
    found: dict[str, Any] = {"cpu": _cpu_name(), "cores": os.cpu_count(), "threads": threads or os.cpu_count()}
    found |= {"load_average": round(os.getloadavg()[0], 1), "python": platform.python_version()}
    found |= {name: version(name) for name in packages or ("torch", "transformers")}
    torch = sys.modules.get("torch")  # analysis does without
    return found | ({"gpu": torch.cuda.get_device_name()} if torch and torch.cuda.is_available() else {})


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _held_bytes(pid: int) -> int:
    """Return what a process and all that it started hold; what has ended meanwhile holds nothing."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(pid)
        for process in (started, *started.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # a process that ends has no pages to read
                total += process.memory_full_info().pss
    return total


def _cpu_name() -> str:
    """Return the name with family and model: on cloud machines every generation of a maker has one name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            found = dict(part for line in file if len(part := re.split(r"\s*:\s*", line.strip(), maxsplit=1)) == 2)
        return f"{found['model name']} (family {found['cpu family']}, model {found['model']})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()

"""Start-up to the first answer: `lmms-eval --limit 1` with `backbone_vlm` against stock lmms-eval with `llava_hf`.

    python benchmarks/eval_startup.py [--checkpoint DIR] [--repeats 5] [--threads 2]
    python benchmarks/eval_startup.py --device cuda --shape llava-1.5-7b

Whole processes, from the command to its end, on the same checkpoint and the first question of `vqa_scene`. The peer
runs as if this package were not installed: our entry point, which also makes lmms-eval read its task files faster (from
a list that the first call after an installation makes, here the one before those that are timed), is hidden from it.
The last line is JSON; its `seconds_of_the_peers` is our time over the peer's.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import _measure
import _models

STOCK = """
import importlib.metadata as metadata, sys
found = metadata.distributions
metadata.distributions = lambda **wanted: (one for one in found(**wanted) if one.name != "vlm-backbones")
sys.argv[0] = "lmms-eval"
from lmms_eval.cli.dispatch import main
sys.exit(main())
"""
OURS = "import sys; sys.argv[0] = 'lmms-eval'; from lmms_eval.cli.dispatch import main; sys.exit(main())"


def main() -> int:
    """Measure and print."""
    given = _measure.arguments(__doc__, samples=1).parse_args()
    _measure.start(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        device, dtype = given.device, "float32" if given.device == "cpu" else "bfloat16"
        made = None if given.checkpoint else _models.save(given.shape, Path(folder) / "ours", dtype)
        checkpoint = given.checkpoint or made
        common = ["--tasks", "vqa_scene", "--limit", "1", "--batch_size", "1"]
        ours = [OURS, "--model", "backbone_vlm", "--model_args", f"pretrained={checkpoint},device={device}", *common]
        stock = [STOCK, "--model", "llava_hf"]
        stock += ["--model_args", f"pretrained={checkpoint},device_map={device},dtype={dtype}"]
        stock += ["--device", device, *common, "--include_path", str(Path(__file__).resolve().parents[1] / "tasks")]
        runs = {"ours": partial(run, ours), "peer": partial(run, stock)}
        for side in runs.values():  # files come from the cache of the system afterwards
            side()
        seconds = _measure.compare(runs, given.repeats)
    middle = {side: statistics.median(run.wall for run in runs) for side, runs in seconds.items()}
    _measure.print_result(
        "eval_startup", seconds, against="lmms-eval's llava_hf", packages=["lmms_eval"],
        count=None, threads=given.threads, device=device,
        seconds_of_the_peers=round(middle["ours"] / middle["peer"], 2),
    )  # fmt: skip
    return 0


def run(command: list[str]) -> None:
    """Run one evaluation; a table of results must come out, since lmms-eval exits 0 where it failed."""
    done = subprocess.run([sys.executable, "-c", *command], capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode or "|vqa_accuracy" not in done.stdout.replace(" ", ""):
        raise SystemExit(f"{command[2]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")


if __name__ == "__main__":
    sys.exit(main())

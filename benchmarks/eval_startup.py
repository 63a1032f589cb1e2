"""Start-up to the first answer: `lmms-eval --limit 1` with `backbone_vlm` against stock lmms-eval with `llava_hf`.

    python benchmarks/eval_startup.py [--checkpoint DIR] [--repeats 5] [--threads 2]

Whole processes, from the command to its end, on the same checkpoint and the first question of `vqa_scene`. The peer
runs as if this package were not installed: our entry point, which also makes lmms-eval read its task files faster, is
hidden from it. The last line is JSON; less is better.
"""

from __future__ import annotations

import os
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
        checkpoint = Path(given.checkpoint) if given.checkpoint else _models.save(given.shape, Path(folder) / "ours")
        common = ["--tasks", "vqa_scene", "--limit", "1", "--batch_size", "1"]
        ours = [OURS, "--model", "backbone_vlm", "--model_args", f"pretrained={checkpoint},device=cpu", *common]
        stock = [STOCK, "--model", "llava_hf", "--model_args", f"pretrained={checkpoint},device_map=cpu,dtype=float32"]
        stock += ["--device", "cpu", *common, "--include_path", str(Path(__file__).resolve().parents[1] / "tasks")]
        runs = {"ours": partial(run, ours), "peer": partial(run, stock)}
        for side in runs.values():  # files come from the cache of the system afterwards
            side()
        seconds = _measure.compare(runs, given.repeats)
    _measure.print_result("eval_startup", seconds, count=None, threads=given.threads)
    return 0


def run(command: list[str]) -> None:
    """Run one evaluation; a table of results must come out, since lmms-eval exits 0 where it failed."""
    done = subprocess.run([sys.executable, "-c", *command], capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode or "|vqa_accuracy" not in done.stdout.replace(" ", ""):
        raise SystemExit(f"{command[2]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")


if __name__ == "__main__":
    sys.exit(main())

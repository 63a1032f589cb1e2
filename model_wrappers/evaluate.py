"""Evaluate one checkpoint under several conditions, through lmms-eval itself, in one process.

    python -m vlm_backbones.model_wrappers.evaluate RUN --tasks vqa_scene --conditions clean,swap --out RUN

Writes OUT/logs/CONDITION/ (what `lmms-eval --log_samples` writes, then done.json), OUT/media/, OUT/progress.json and,
where asked for, hidden states in OUT/states/CONDITION/ with those of random weights in OUT/states/random_weights/. A
condition that is finished for the same checkpoint, data and limit is skipped. Exits 1 where lmms-eval failed or left
files out, 2 where the user can mend it.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from vlm_backbones.errors import VlmBackbonesError

__all__ = ["VERSION", "main"]

# Raised when the logs' content changes.
VERSION = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.threads is not None:
        # Read when torch and the tokenizers start, which is after this line.
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    # Tokenizer threads help nobody here, and warn when lmms-eval forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from vlm_backbones.model_wrappers._evaluation import Evaluation

    try:
        Evaluation(
            checkpoint=arguments.checkpoint,
            out=Path(arguments.out),
            tasks=_names(arguments.tasks),
            conditions=_names(arguments.conditions),
            limit=arguments.limit,
            batch_size=arguments.batch_size,
            threads=arguments.threads,
            device=arguments.device,
            version=VERSION,
            subset=arguments.subset,
            states=arguments.states,
            layers=arguments.layers,
            split=arguments.split,
        ).run()
    except VlmBackbonesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        print("error: lmms-eval failed; the conditions finished before are kept.", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vlm_backbones.model_wrappers.evaluate", description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT_OR_RUN", help="folder of a checkpoint or of a run")
    parser.add_argument("--tasks", required=True, help="task names, separated by commas")
    parser.add_argument("--conditions", default="clean", help="conditions, separated by commas (default: clean)")
    parser.add_argument("--out", required=True, help="folder for logs/, media/ and progress.json")
    parser.add_argument("--limit", type=int, help="documents a task, for trying out")
    parser.add_argument("--subset", type=int, help="documents a task for states and all conditions but clean and swap")
    parser.add_argument("--states", help="keep hidden states in OUT/states/CONDITION/: last_prompt+image_mean, ...")
    parser.add_argument("--layers", default="every4", help="layers of the states: all, every4 or 0+8+16")
    parser.add_argument("--split", help="answer this split in place of each task's own, as a sweep does: validation")
    parser.add_argument("--batch-size", default="16", help="requests at once, or auto (default: 16)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--device", help="cuda, cuda:1, cpu (default: the GPU where there is one)")
    return parser


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


if __name__ == "__main__":
    sys.exit(main())

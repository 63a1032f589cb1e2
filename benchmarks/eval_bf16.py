"""How many answers bfloat16 changes: against float32, and, in itself, a batch against batch 1; how far scores move.

    python benchmarks/eval_bf16.py --checkpoint runs/pocket/pocket-llama-3/checkpoint [--samples 400]
    python benchmarks/eval_bf16.py --device cuda --shape llava-1.5-7b --samples 64

One run of each; the times of bfloat16 and float32 are compared too. The last line is JSON; shares have a 95 % interval
(Wilson).
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import _measure
import _models


def main() -> int:
    """Measure and print."""
    parser = _measure.arguments(__doc__, samples=400, repeats=1)
    parser.add_argument("--new-tokens", type=int, default=16)
    given = parser.parse_args()
    _measure.start(given.threads)
    found: dict[str, list[Any]] = {}
    answer = {}
    for side, dtype in (("ours", "bfloat16"), ("peer", "float32")):
        loaded = _models.load(given, dtype=dtype)
        model = _models.ours(loaded, given.batch_size)
        answer[side] = partial(keep, found, side, model, loaded.rows, given.new_tokens)
        if side == "ours":
            keep(found, "one by one", _models.ours(loaded, 1), loaded.rows, given.new_tokens)
            loaded.engine.room.asked = None if given.batch_size == "auto" else int(given.batch_size)
    seconds = _measure.compare(answer, given.repeats)
    _measure.print_result(
        "eval_bf16", seconds, against="float32", count=len(found["ours"]), threads=given.threads,
        against_float32=changed(found["ours"], found["peer"]),
        against_batch_1=changed(found["ours"], found["one by one"]), rows_at_once=loaded.engine.room.rows,
    )  # fmt: skip
    return 0


def keep(found: dict[str, list[Any]], side: str, model: Any, rows: Any, new_tokens: int) -> None:
    """Answer and keep the answers."""
    found[side] = model.generate_until(_models.make_requests(rows, new_tokens))


def changed(answers: list[Any], others: list[Any]) -> dict[str, Any]:
    """Return how many answers differ, their share with its interval, and how far the options' scores move."""
    pairs = list(zip(answers, others, strict=True))
    differ = sum(a[0] != b[0] for a, b in pairs)
    moved = sorted(abs(value - b[1]["reasoning_tokens"]["option_logprobs"][name]) for a, b in pairs
                   for name, value in (a[1]["reasoning_tokens"]["option_logprobs"] or {}).items())  # fmt: skip
    low, high = interval(differ, len(pairs))
    found = {"differ": differ, "n": len(pairs), "share": [round(part, 4) for part in (differ / len(pairs), low, high)]}
    moves = {"median": round(moved[len(moved) // 2], 5), "largest": round(moved[-1], 4)} if moved else None
    return {**found, "option_logprob_moves": moves}


def interval(count: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(count, n, method="wilson")
    return float(low), float(high)


if __name__ == "__main__":
    sys.exit(main())

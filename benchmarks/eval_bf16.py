"""How many answers bfloat16 changes: the share that differs from float32, and how far scores move.

    python benchmarks/eval_bf16.py --checkpoint runs/pocket/pocket-llama-3/checkpoint [--samples 400]
    python benchmarks/eval_bf16.py --device cuda --shape llava-1.5-7b --samples 64

One run of each; their times are compared too. The last line is JSON; `share_differs` has a 95 % interval (Wilson).
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
    runs = {}
    for side, dtype in (("ours", "bfloat16"), ("peer", "float32")):
        loaded = _models.load(given, dtype=dtype)
        runs[side] = partial(keep, found, side, _models.ours(loaded, given.batch_size), loaded.rows, given.new_tokens)
    seconds = _measure.compare(runs, given.repeats)
    pairs = list(zip(found["ours"], found["peer"], strict=True))
    differ = sum(a[0] != b[0] for a, b in pairs)
    moved = sorted(abs(value - b[1]["reasoning_tokens"]["option_logprobs"][name]) for a, b in pairs
                   for name, value in (a[1]["reasoning_tokens"]["option_logprobs"] or {}).items())  # fmt: skip
    low, high = interval(differ, len(pairs))
    _measure.print_result(
        "eval_bf16", seconds, count=len(pairs), threads=given.threads, differ=differ, n=len(pairs),
        share_differs=[round(differ / len(pairs), 4), round(low, 4), round(high, 4)],
        option_logprob_moves={"median": round(moved[len(moved) // 2], 5), "largest": round(moved[-1], 4)}
        if moved else None,
    )  # fmt: skip
    return 0


def keep(found: dict[str, list[Any]], side: str, model: Any, rows: Any, new_tokens: int) -> None:
    """Answer and keep the answers."""
    found[side] = model.generate_until(_models.make_requests(rows, new_tokens))


def interval(count: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(count, n, method="wilson")
    return float(low), float(high)


if __name__ == "__main__":
    sys.exit(main())

"""Short answers: samples a second of `backbone_vlm` against stock `llava_hf`, same weights, cores and questions.

    python benchmarks/eval_throughput.py [--checkpoint DIR] [--samples 1200] [--repeats 5] [--threads 2]
    python benchmarks/eval_throughput.py --device cuda --shape llava-1.5-7b --samples 256

Both answer the same `vqa_scene` requests through `generate_until`, as lmms-eval calls them; ours scores the four
options besides. With a checkpoint the questions are the task's own. Ours is also checked against its own batch 1, token
for token; exit 1 where they differ in float32. How many texts differ from the peer's is told. Answers of one token
without options are timed by themselves: they are nearly all prefill, whose share of a card's bf16 peak is told. The
last line is JSON.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import _measure
import _models
import _peak


def main() -> int:
    """Measure and print; exit 1 where the batch changes an answer."""
    parser = _measure.arguments(__doc__, samples=1200)
    parser.add_argument("--new-tokens", type=int, default=8)
    given = parser.parse_args()
    _measure.start(given.threads)
    loaded = _models.load(given)
    answer = partial(answers, loaded=loaded, new_tokens=given.new_tokens)
    ours, peer = _models.ours(loaded, given.batch_size), _models.peer(loaded)
    found = answer(ours)
    differ = differences(found, answer(_models.ours(loaded, 1)))
    print(f"batch {given.batch_size} against batch 1: {differ} of {len(found)} answers differ", flush=True)
    loaded.engine.room.asked = None if given.batch_size == "auto" else int(given.batch_size)
    answer(ours)  # warm after the check
    unlike = different_texts(found, answer(peer))
    print(f"ours against the peer: {unlike} of {len(found)} texts differ", flush=True)
    seconds = _measure.compare({"ours": partial(answer, ours), "peer": partial(answer, peer)}, given.repeats)
    first_tokens = partial(answers, ours, loaded=loaded, new_tokens=1, options=False)
    _measure.print_result(
        "eval_throughput", seconds, count=len(found), threads=given.threads, differ_from_batch_1=differ,
        against="lmms-eval's llava_hf", packages=["lmms_eval"],
        texts_differ_from_peer=unlike, rows_at_once=loaded.engine.room.rows,
        **_peak.shares(loaded, found, seconds["ours"]), **_peak.prefill(loaded, first_tokens, given.repeats),
    )  # fmt: skip
    return 1 if differ and loaded.engine.model.dtype.itemsize == 4 else 0


def answers(model: Any, *, loaded: _models.Loaded, new_tokens: int, options: bool = True) -> list[Any]:
    """Return one model's answers."""
    found = model.generate_until(_models.make_requests(loaded.rows, new_tokens, options=options))
    texts = [answer if isinstance(answer, str) else answer[0] for answer in found]
    # Stock code turns an exception into an empty answer, which would look fast.
    if not any(texts):
        raise SystemExit(f"{type(model).__name__} answered nothing: no comparison.")
    return list(found)


def differences(first: list[Any], second: list[Any]) -> int:
    """Return how many answers differ in text, tokens or, by more than 1e-4, in their log-probability."""
    count = 0
    for (text_a, counts_a), (text_b, counts_b) in zip(first, second, strict=True):
        a, b = counts_a["reasoning_tokens"], counts_b["reasoning_tokens"]
        close = abs(a["logprob"] - b["logprob"]) < 1e-4
        count += not (text_a == text_b and a["token_count"] == b["token_count"] and close)
    return count


def different_texts(ours: list[Any], stock: list[Any]) -> int:
    """Return how many texts differ; the peer neither trims its answers nor cuts them at the task's stop string."""
    texts = [answer if isinstance(answer, str) else answer[0] for answer in stock]
    return sum(text != other.split("\n\n")[0].strip() for (text, _), other in zip(ours, texts, strict=True))


if __name__ == "__main__":
    sys.exit(main())

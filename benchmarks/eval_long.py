"""Long answers: 512 tokens a picture, eight at once, against `llava_hf`'s loop of batch 1 or against vLLM.

    python benchmarks/eval_long.py [--samples 8] [--new-tokens 512] [--repeats 5] [--threads 2]
    python benchmarks/eval_long.py --device cuda --shape llava-1.5-7b --samples 16 [--compile] [--peer vllm]

Every question has a picture of its own, and no answer ends early: the end of turn is out of reach of these random
weights. With --mixed the limits lie between an eighth and all of the tokens, so that rows end at different steps and
new ones join. With --compile our steps are compiled, which takes place before anything is timed. vLLM reads the same
weights from a folder, which is not timed, and gets the same prompt ids, pictures, limits and number of rows at once; it
keeps nothing of a picture or prompt for the next repeat. Exit 1 where an answer is not the peer's in float32. The last
line is JSON.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib.util import find_spec
from typing import Any

import _measure
import _models
import _peak

PEERS = {"llava_hf": ("lmms-eval's llava_hf", "lmms_eval"), "vllm": ("vLLM", "vllm")}


def main() -> int:
    """Measure and print."""
    parser = _measure.arguments(__doc__, samples=8)
    parser.add_argument("--new-tokens", type=int, default=512)
    parser.add_argument("--mixed", action="store_true", help="limits from an eighth of --new-tokens to all of them")
    parser.add_argument("--peer", choices=list(PEERS), default="llava_hf")
    parser.add_argument("--compile", action="store_true", help="ours with the model argument compile=true")
    parser.set_defaults(batch_size="8")
    given = parser.parse_args()
    if given.peer == "vllm" and find_spec("vllm") is None:
        raise SystemExit("--peer vllm needs a GPU and vLLM, which pins a torch of its own: pip install vllm")
    _measure.start(given.threads)
    samples, given.samples = given.samples, 4 * given.samples
    loaded = _models.load(given, compiled=given.compile)
    loaded = _models.Loaded(loaded.engine, _models.own_pictures(loaded.rows, samples))
    loaded.engine.model.lm_head.weight.data[loaded.engine.tokenizer.eos_token_id] = 0
    limits = [given.new_tokens * (1 + index % 8) // 8 if given.mixed else given.new_tokens for index in range(samples)]
    answer = partial(answers, loaded=loaded, limits=limits)
    ours = _models.ours(loaded, given.batch_size)
    peer = _models.peer(loaded) if given.peer == "llava_hf" else load_vllm(loaded)
    found = answer(ours)
    same = sum(text == other.strip() for (text, _), other in zip(found, answer(peer), strict=True))
    print(f"{same} of {samples} answers are the peer's, letter for letter", flush=True)
    seconds = _measure.compare({"ours": partial(answer, ours), "peer": partial(answer, peer)}, given.repeats)
    _measure.print_result(
        "eval_long_mixed" if given.mixed else "eval_long", seconds, count=samples, threads=given.threads,
        tokens=sum(limits), against=PEERS[given.peer][0], packages=[PEERS[given.peer][1]],
        same_as_peer=same, rows_at_once=loaded.engine.room.rows,
        compiled=given.compile,
        **_peak.shares(loaded, found, seconds["ours"]),
    )  # fmt: skip
    return 1 if same < samples and loaded.engine.model.dtype.itemsize == 4 else 0


def load_vllm(loaded: _models.Loaded) -> Any:
    """Return vLLM around the same weights; it can be imported where it is installed only."""
    import _vllm

    return _vllm.Peer(loaded)


def answers(model: Any, *, loaded: _models.Loaded, limits: list[int]) -> list[Any]:
    """Return one model's answers."""
    requests = _models.make_requests(loaded.rows, max(limits), options=False)
    for request, limit in zip(requests, limits, strict=True):
        request.args[1].update(max_new_tokens=limit, until=[])
    return list(model.generate_until(requests))


if __name__ == "__main__":
    sys.exit(main())

"""Four questions a picture: ours against ourselves without the reuse of what the questions share.

    python benchmarks/eval_reuse.py [--shape pocket | pocket-576] [--checkpoint DIR] [--samples 400] [--repeats 5]
    python benchmarks/eval_reuse.py --device cuda --shape llava-1.5-7b --samples 256

The side without reuse takes each question's picture for another one: it is decoded and encoded again, and every prompt
is read from its first token. Answers must be the same; exit 1 where they are not in float32. The last line is JSON.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from typing import Any
from unittest import mock

import _measure
import _models
import _peak


def main() -> int:
    """Measure and print; exit 1 where the reuse changes an answer in float32."""
    parser = _measure.arguments(__doc__, samples=400)
    parser.add_argument("--new-tokens", type=int, default=8)
    given = parser.parse_args()
    _measure.start(given.threads)
    loaded = _models.load(given)
    model = _models.ours(loaded, given.batch_size)
    answer = partial(answers, model, loaded, given.new_tokens)
    found, other = answer(), without_reuse(answer)
    differ = sum(a[0] != b[0] for a, b in zip(found, other, strict=True))
    print(f"{differ} of {len(found)} answers differ", flush=True)
    seconds = _measure.compare({"ours": answer, "peer": partial(without_reuse, answer)}, given.repeats)
    _measure.print_result(
        f"eval_reuse_{loaded.engine.model.config.image_seq_length}", seconds, count=len(found), threads=given.threads,
        against="ours without reuse", differ=differ,
        rows_at_once=loaded.engine.room.rows, **_peak.shares(loaded, found, seconds["ours"]),
    )  # fmt: skip
    return 1 if differ and loaded.engine.model.dtype.itemsize == 4 else 0


def answers(model: Any, loaded: _models.Loaded, new_tokens: int) -> list[Any]:
    """Return the answers."""
    return list(model.generate_until(_models.make_requests(loaded.rows, new_tokens)))


def without_reuse(answer: Any) -> list[Any]:
    """Return the answers with each question's picture read anew and under a name of its own."""
    from datasets import Image

    from vlm_backbones.model_wrappers._dataset_rows import DatasetRows
    from vlm_backbones.model_wrappers._requests import DocumentReader

    read = DocumentReader.read

    def renamed(reader: Any, job: Any) -> Any:
        document = read(reader, job)
        return dataclasses.replace(document, shown_keys=[f"{key}:{job.index}" for key in document.shown_keys])

    with (
        mock.patch.object(DocumentReader, "read", renamed),
        mock.patch.object(DatasetRows, "_decoded", lambda rows, cell: Image().decode_example(cell)),
    ):
        return list(answer())


if __name__ == "__main__":
    sys.exit(main())

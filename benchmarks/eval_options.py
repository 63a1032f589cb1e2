"""Four options a question: questions a second of `backbone_vlm` against `llava_hf`'s loglikelihood, repaired.

    python benchmarks/eval_options.py [--shape pocket | pocket-576] [--checkpoint DIR] [--samples 200] [--repeats 5]
    python benchmarks/eval_options.py --device cuda --shape llava-1.5-7b --samples 256

The same requests, one an option, as lmms-eval's multiple-choice tasks make them. Stock `llava_hf` crashes or returns a
mean loss here; the peer is its code with two repairs (the prompt without images, the sum in place of the
mean), its work unchanged: one whole pass an option. Both sides' values are compared; exit 1 where they differ. The last
line is JSON.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import _measure
import _models
import _peak


def main() -> int:
    """Measure and print; exit 1 where the two sides' values differ in float32."""
    given = _measure.arguments(__doc__, samples=200).parse_args()
    _measure.start(given.threads)
    loaded = _models.load(given)
    requests = make_requests(loaded.rows)
    ours, peer = _models.ours(loaded, given.batch_size), _models.peer(loaded)
    pairs = zip(ours.loglikelihood(requests), loglikelihood(peer, requests), strict=True)
    largest = max(abs(a - b) for (a, _), (b, _) in pairs)
    print(f"largest difference of a log-probability: {largest:.2g}", flush=True)
    runs = {"ours": partial(ours.loglikelihood, requests), "peer": partial(loglikelihood, peer, requests)}
    seconds = _measure.compare(runs, given.repeats)
    answers = ours.generate_until(_models.make_requests(loaded.rows, 1))
    _measure.print_result(
        f"eval_options_{loaded.engine.model.config.image_seq_length}", seconds, count=len(answers),
        against="lmms-eval's llava_hf", packages=["lmms_eval"],
        threads=given.threads, largest_difference=largest, rows_at_once=loaded.engine.room.rows,
        **_peak.shares(loaded, answers, seconds["ours"]),
    )  # fmt: skip
    return 1 if largest > 1e-3 and loaded.engine.model.dtype.itemsize == 4 else 0


def make_requests(rows: Any) -> list[Any]:
    """Return one `loglikelihood` instance an option of each question."""
    from lmms_eval.api.instance import Instance

    from vlm_backbones.prompts import vqa_prompt
    from vlm_backbones.tasks.common import doc_to_visual

    test = rows["test"]
    return [
        Instance(
            request_type="loglikelihood", idx=place,
            arguments=(vqa_prompt(question), option, doc_to_visual, index, "vqa_scene", "test"),
            metadata={"task": "vqa_scene", "doc_id": index, "repeats": 1},
        )
        for index, question in enumerate(test["question"])
        for place, option in enumerate(test["options"][index] or _models.OPTIONS)
    ]  # fmt: skip


def loglikelihood(model: Any, requests: list[Any]) -> list[tuple[float, bool]]:
    """Return what `LlavaHf.loglikelihood` is meant to: its own steps, with the sum over the option's tokens."""
    import torch

    results = []
    for context, option, doc_to_visual, doc_id, task, split in (request.args for request in requests):
        visuals = list(doc_to_visual(model.task_dict[task][split][doc_id]))
        context = f"{' '.join(['<image>'] * len(visuals))}\n{context}"
        model.tokenizer.chat_template = model.chat_template
        prompt = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": context}], tokenize=False, add_generation_prompt=True
        )
        inputs, before = (
            model._image_processor(text=[text], images=visuals, return_tensors="pt", add_special_tokens=False)
            for text in (prompt + option, prompt)
        )
        inputs = inputs.to(model.device, model.model.dtype)
        start = before["input_ids"].shape[1]
        with torch.inference_mode():
            logits = model.model(**inputs).logits[0, start - 1 : -1].float()
        tokens = inputs["input_ids"][0, start:]
        logprob = logits.log_softmax(-1).gather(1, tokens[:, None]).sum()
        results.append((float(logprob), bool((logits.argmax(-1) == tokens).all())))
    return results


if __name__ == "__main__":
    sys.exit(main())

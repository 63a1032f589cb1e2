"""TextVQA as the published studies ask it: with the OCR tokens that come with the dataset.

lmms-eval --model backbone_vlm --tasks textvqa_study --batch_size 16
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vlm_backbones.prompts import ocr_prompt
from vlm_backbones.tasks.common import Doc, answer_text, doc_to_visual, record

__all__ = ["doc_to_target", "doc_to_text", "doc_to_visual", "process_results"]


def doc_to_text(doc: Doc) -> str:
    """Return the published prompt."""
    return ocr_prompt(str(doc["question"]), [str(token) for token in doc["ocr_tokens"]])


def doc_to_target(doc: Doc) -> str:
    """Return the ten answers as JSON."""
    return json.dumps(list(doc["answers"]), ensure_ascii=False)


def process_results(doc: Doc, results: Sequence[Any]) -> dict[str, Any]:
    """Score as lmms-eval's `textvqa_val` does: both sides are normalised, the mean of min(1, equal others / 3)."""
    from lmms_eval.tasks.textvqa.utils import textvqa_process_results

    answer = answer_text(results)
    scored = textvqa_process_results({**doc, "answers": list(doc["answers"])}, [answer])
    score = float(scored["exact_match"])
    return {"exact_match": score, "backbones": record(doc, parsed=scored["submission"]["answer"] or None, score=score)}

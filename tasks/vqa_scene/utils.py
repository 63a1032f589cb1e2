"""Short questions about a scene: official VQA accuracy.

lmms-eval --model backbone_vlm --tasks vqa_scene --batch_size 16
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vlm_backbones.prompts import vqa_prompt
from vlm_backbones.scoring import normalize_vqa, vqa_accuracy
from vlm_backbones.tasks.common import Doc, answer_text, finite_or_none, record


def doc_to_text(doc: Doc) -> str:
    """Return the question in the study's wording."""
    return vqa_prompt(doc["question"])


def doc_to_target(doc: Doc) -> str:
    """Return the answer where all references agree, the list of them as JSON otherwise."""
    answers = list(doc["answers"])
    return str(answers[0]) if len(set(answers)) == 1 else json.dumps(answers, ensure_ascii=False)


def process_results(doc: Doc, results: Sequence[Any]) -> dict[str, Any]:
    """Score one answer; never raises, never touches the image."""
    answer = answer_text(results)
    score = finite_or_none(vqa_accuracy(answer, list(doc.get("answers") or [])))
    parsed = normalize_vqa(answer) or None
    return {"vqa_accuracy": score, "backbones": record(doc, parsed=parsed, score=score)}

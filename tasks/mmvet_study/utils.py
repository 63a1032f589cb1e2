"""MM-Vet as the published studies ask it: the bare question, graded by a judge.

OPENAI_API_KEY=... lmms-eval --model backbone_vlm --tasks mmvet_study --batch_size 16
"""

from __future__ import annotations

from functools import partial

from vlm_backbones.tasks.common import Doc, doc_to_visual
from vlm_backbones.tasks.judged import doc_to_target, judged_result

__all__ = ["doc_to_target", "doc_to_text", "doc_to_visual", "process_results"]

process_results = partial(judged_result, rubric="mm_vet")


def doc_to_text(doc: Doc) -> str:
    """Return the question alone; lmms-eval's own `mmvet` asks to think step by step."""
    return str(doc["question"])

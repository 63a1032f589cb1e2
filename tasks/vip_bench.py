"""What ViP-Bench's two tasks share: a judge's grade of an open answer, by capability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_backbones.tasks.common import Doc, answer_text, mean, record
from vlm_backbones.tasks.judge import ask_judge
from vlm_backbones.tasks.region_common import doc_to_text, doc_to_visual

__all__ = [
    "CAPABILITIES",
    "METRIC",
    "doc_to_target",
    "doc_to_text",
    "doc_to_visual",
    "graded_metrics",
    "mean",
    "process_results",
]

METRIC = "judge_score"
CAPABILITIES = ("rec", "ocr", "know", "math", "rel", "lang")
"""Recognition, reading, knowledge, mathematics, relations, language generation; a question has several."""


def doc_to_target(doc: Doc) -> str:
    """Return the reference answer, with its <AND> and <OR>."""
    return str(doc["answer"])


def process_results(doc: Doc, results: Sequence[Any]) -> dict[str, Any]:
    """Ask the judge; never raises. The score is null where no judge answered."""
    question, answer, said = str(doc["question"]), doc_to_target(doc), answer_text(results)
    grade = ask_judge(question, answer, said)
    capability = list(doc.get("capability") or [])
    kept = record(doc, parsed=said or None, score=grade, rungs=dict.fromkeys(capability, grade))
    kept["question_type"] = "+".join(sorted(capability)) or None
    kept["judged"] = {"question_id": doc["question_id"], "question": question, "answer": answer}
    return {**graded_metrics(kept["rungs"], grade), "backbones": kept}


def graded_metrics(capability: Mapping[str, object], grade: float | None) -> dict[str, float | None]:
    """Return one metric over all questions and one for each capability that the question has."""
    own = {f"{METRIC}_{name}": grade for name in CAPABILITIES if name in capability}
    return {METRIC: grade, **own}

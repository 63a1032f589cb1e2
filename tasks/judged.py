"""What the tasks with a judge share: its grade of an open answer, over all questions and by capability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_backbones.tasks.common import Doc, answer_text, record
from vlm_backbones.tasks.judge import Rubric, ask_judge, judge_name

__all__ = ["CAPABILITIES", "METRIC", "doc_to_target", "graded_metrics", "judged_result"]

METRIC = "judge_score"
CAPABILITIES: dict[Rubric, tuple[str, ...]] = {
    "vip_bench": ("rec", "ocr", "know", "math", "rel", "lang"),
    "mm_vet": ("rec", "ocr", "know", "math", "spat", "gen"),
}
"""Recognition, reading, knowledge, mathematics, relations or places, language generation; a question has several."""


def doc_to_target(doc: Doc) -> str:
    """Return the reference answer, with its <AND> and <OR>."""
    return str(doc["answer"])


def judged_result(doc: Doc, results: Sequence[Any], rubric: Rubric) -> dict[str, Any]:
    """Ask the judge; never raises. The score is null where no judge answered."""
    question, answer, said = str(doc["question"]), doc_to_target(doc), answer_text(results)
    grade = ask_judge(question, answer, said, rubric)
    capability = _capabilities(doc.get("capability"))
    kept = record(doc, parsed=said or None, score=grade, rungs=dict.fromkeys(capability, grade))
    kept["question_type"] = "+".join(sorted(capability)) or None
    judged = {"question_id": doc["question_id"], "question": question, "answer": answer, "rubric": rubric}
    judged["judge"] = None if grade is None else judge_name()
    return {**graded_metrics(kept["rungs"], grade, rubric), "backbones": kept | {"judged": judged}}


def graded_metrics(capability: Mapping[str, object], grade: float | None, rubric: Rubric) -> dict[str, float | None]:
    """Return one metric over all questions and one for each capability that the question has."""
    own = {f"{METRIC}_{name}": grade for name in CAPABILITIES[rubric] if name in capability}
    return {METRIC: grade, **own}


def _capabilities(cell: Any) -> list[str]:
    """Return a question's capabilities: a list (ViP-Bench), or one text with commas (MM-Vet)."""
    names = cell.split(",") if isinstance(cell, str) else cell or []
    return [name.strip() for name in names]

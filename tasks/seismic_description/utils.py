"""Descriptions of shake maps: the share of facts that are right, facts made up, and ROUGE-L.

lmms-eval --model backbone_vlm --tasks seismic_description --batch_size 16
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from vlm_backbones.prompts import description_prompt
from vlm_backbones.scoring import description_facts
from vlm_backbones.tasks.common import Doc, answer_text, finite_or_none, record

FACTS = ("magnitude", "depth_km", "region", "quadrant", "max_intensity")


def doc_to_text(doc: Doc) -> str:
    """Return the request, the same for every map."""
    return description_prompt()


def doc_to_target(doc: Doc) -> str:
    """Return the reference description."""
    return str(doc["description"])


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


def rouge_l(answer: str, reference: str) -> float:
    """Return the F measure of the longest common subsequence of words (Lin 2004), by `rouge_score`."""
    return float(_scorer().score(reference, answer)["rougeL"].fmeasure)


def process_results(doc: Doc, results: Sequence[Any]) -> dict[str, Any]:
    """Score one description; never raises, never touches the image."""
    answer = answer_text(results)
    judged = description_facts(answer, {name: doc.get(name) for name in FACTS})
    score = finite_or_none(float(judged["score"]))  # type: ignore[arg-type]
    return {
        "fact_score": score,
        "hallucinated_facts": judged["hallucinated"],
        "rouge_l": rouge_l(answer, str(doc.get("description") or "")),
        "backbones": record(doc, parsed=answer or None, score=score, rungs=judged["facts"]),  # type: ignore[arg-type]
    }

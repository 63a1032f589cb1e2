"""ViP-Bench with marks drawn by hand, graded by a judge.

VLM_BACKBONES_REGION_DATA=DIR OPENAI_API_KEY=... lmms-eval --model backbone_vlm --tasks vip_bench_human
"""

from __future__ import annotations

from functools import partial

from vlm_backbones.tasks.judged import doc_to_target, judged_result
from vlm_backbones.tasks.region_common import doc_to_text, doc_to_visual

__all__ = ["doc_to_target", "doc_to_text", "doc_to_visual", "process_results"]

process_results = partial(judged_result, rubric="vip_bench")

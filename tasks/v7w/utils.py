"""Visual7W, which box: four rectangles of different colours in the picture, the letter of the right one is the answer.

VLM_BACKBONES_REGION_DATA=DIR lmms-eval --model backbone_vlm --tasks v7w --batch_size 16
"""

from __future__ import annotations

from vlm_backbones.tasks.common import Doc
from vlm_backbones.tasks.region_common import doc_to_marked_visual as doc_to_visual
from vlm_backbones.tasks.region_common import doc_to_text
from vlm_backbones.tasks.region_common import process_match as process_results

__all__ = ["doc_to_target", "doc_to_text", "doc_to_visual", "process_results"]


def doc_to_target(doc: Doc) -> str:
    """Return the letter of the right box."""
    return str(doc["answer"])

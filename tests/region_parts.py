"""Tiny region data in the layout of the published downloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BOXES = [[4, 4, 30, 30], [34, 4, 60, 30], [4, 34, 30, 60], [34, 34, 60, 60]]
WHICH = [
    {"id": f"v7w-which-{place}", "image": f"v7w/{place}.png", "question": "Which is brighter?", "bboxes": BOXES,
     "answer": BOXES[place % 4]}
    for place in range(6)
]  # fmt: skip
COUNT = [
    {"id": f"pointQA_twice-look-{place}", "image": f"vg/{place}.png", "bboxes": BOXES[:1],
     "general_question": "How many squares are there?", "answer": str(place)}
    for place in range(5)
]  # fmt: skip
CAPABILITIES = [["rec"], ["rec", "ocr"], ["math", "ocr"], ["rec", "lang"], ["know"]]
ANSWERS = ["a cup", "5<AND>7", "-1<OR>3", "a dog", "Paris"]


def write_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((64, 64), Image.Resampling.NEAREST).save(path)


def write_region_data(root: Path) -> Path:
    """Write v7w-test.json, pointQA_twice_test.json, ViP-Bench/ and all pictures."""
    for row in (*WHICH, *COUNT):
        write_picture(root / str(row["image"]), len(str(row["id"])))
    (root / "v7w-test.json").write_text(json.dumps(WHICH))
    (root / "pointQA_twice_test.json").write_text(json.dumps(COUNT))
    meta: dict[str, Any] = {}
    for place, (answer, capability) in enumerate(zip(ANSWERS, CAPABILITIES, strict=True)):
        meta[f"v1_{place}"] = {
            "image_source": "mm-vet", "image": f"v1_{place}.png", "question": "What is in <obj>?", "answer": answer,
            "capability": capability,
        }  # fmt: skip
    (root / "ViP-Bench").mkdir(parents=True)
    (root / "ViP-Bench" / "vip-bench-meta-data.json").write_text(json.dumps(meta))
    for kind in ("bbox", "human"):
        lines = []
        for place in range(len(ANSWERS)):
            write_picture(root / "ViP-Bench" / kind / "images" / f"v1_{place}.png", place)
            text = f"What is within the red rectangle {place}?"
            lines.append(json.dumps({"question_id": place, "image": f"v1_{place}.png", "text": text}))
        (root / "ViP-Bench" / kind / "questions.jsonl").write_text("\n".join(lines) + "\n")
    return root

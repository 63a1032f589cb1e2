"""The model card of a trained checkpoint."""

from __future__ import annotations

from vlm_backbones.backbones import get_backbone
from vlm_backbones.study import Study


def model_card(study: Study, backbone: str, seed: int) -> str:
    """Return README.md of a checkpoint: what it was made from and how to open it."""
    row = get_backbone(backbone)
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
---
# {study.run_name(backbone, seed)}

A vision-language model trained by vlm-backbones: study `{study.name}`, backbone `{backbone}`, vision tower
`{study.vision_tower}`, recipe `{study.recipe.name}`, chat format `{study.chat_format}`, seed {seed}.
Licence of the backbone: {row.licence or "unknown"}.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("path/to/checkpoint")
processor = AutoProcessor.from_pretrained("path/to/checkpoint")
```
"""

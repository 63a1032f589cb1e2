"""How near a GPU's limit a run is: the operations that its tokens need, against the card's dense bf16 peak."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import _measure
import _models

__all__ = ["shares"]

# Dense bf16 operations a second, from the vendor's data sheets.
BF16_PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


def shares(loaded: _models.Loaded, answers: Sequence[Any], runs: Sequence[_measure.Seconds]) -> dict[str, Any]:
    """Return tokens a second and, on a known GPU, the share of its peak; an image that questions share counts once."""
    model = loaded.engine.model
    keys = [counts["reasoning_tokens"]["image_key"] for _, counts in answers]
    images = len(set(keys))
    each = model.config.image_seq_length
    read = sum(counts["input_tokens"] for _, counts in answers) - each * (len(keys) - images)
    written = sum(counts["output_tokens"] for _, counts in answers)
    seconds = statistics.median(run.wall for run in runs)
    found = {"tokens_read_per_s": round(read / seconds), "tokens_written_per_s": round(written / seconds, 1)}
    if loaded.engine.device.type != "cuda":
        return found
    import torch

    name = torch.cuda.get_device_name()
    peak = next((value for part, value in BF16_PEAK.items() if part in name), None)
    operations = 2.0 * (read + written) * _parameters(model.model.language_model)
    operations += 2.0 * images * each * _parameters(model.model.vision_tower)
    memory = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    return found | {"bf16_peak_share": peak and round(operations / seconds / peak, 3), "memory_gib": memory}


def _parameters(module: Any) -> int:
    """Return the parameters that every token passes: all but embeddings."""
    named = [(name, parameter.numel()) for name, parameter in module.named_parameters()]
    return sum(count for name, count in named if "embed" not in name)

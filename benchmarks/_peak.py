"""How near a GPU's limit a run is: the operations that its tokens need, against the card's dense bf16 peak."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import _measure
import _models

__all__ = ["peak_share", "prefill", "shares", "training_operations"]

# Dense bf16 operations a second, from the vendor's data sheets.
BF16_PEAK = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12,
}  # fmt: skip


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

    operations = _operations(model, read + written, images)
    memory = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    return found | {"bf16_peak_share": peak_share(operations / seconds), "memory_gib": memory}


def prefill(loaded: _models.Loaded, answer: Callable[[], Sequence[Any]], repeats: int) -> dict[str, Any]:
    """Time answers of one token each, which are nearly all prefill: tokens read a second, and the share of the peak.

    What else a question costs counts as time and not as operations: decoding of pictures, prompts, the output head.
    """
    answers = answer()
    runs = _measure.compare({"prefill": answer}, repeats)["prefill"]
    found = shares(loaded, answers, runs)
    return {f"prefill_{name}": found[name] for name in ("tokens_read_per_s", "bf16_peak_share") if name in found}


def _operations(model: Any, tokens: int, images: int) -> float:
    """Return the operations of a forward pass: 2 a parameter and token; attention's own products are left out."""
    pixels = images * model.config.image_seq_length
    operations = 2.0 * tokens * _parameters(model.model.language_model)
    return operations + 2.0 * pixels * _parameters(model.model.vision_tower)


def peak_share(operations_per_s: float) -> float | None:
    """Return the share of this card's dense bf16 peak; None without a card, or where its peak is not known."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((value for part, value in BF16_PEAK.items() if re.search(rf"\b{part}\b", name)), None)
    return peak and round(operations_per_s / peak, 3)


def training_operations(
    model: Any, *, tokens: float, supervised: float, images: float, is_full: bool, lora_rank: int = 0
) -> float:
    """Return the operations that training a LLaVA on so many tokens, of which some are supervised, needs.

    A parameter costs 2 a token forward, 2 for the gradient of what it read, and 2 for its own where it is trained.
    What a run does beyond is no use of the card: recomputed layers, padding. Attention's own products are left out too.
    """
    import torch

    llm, image_tokens = 6.0 if is_full else 4.0, images * model.config.image_seq_length
    found = llm * (tokens * _parameters(model.model.language_model) + supervised * _parameters(model.lm_head))
    found += 6.0 * image_tokens * _parameters(model.model.multi_modal_projector)
    found += 2.0 * image_tokens * _parameters(model.model.vision_tower)
    linear = [part for part in model.model.language_model.modules() if isinstance(part, torch.nn.Linear)]
    return found + 6.0 * tokens * lora_rank * sum(part.in_features + part.out_features for part in linear)


def _parameters(module: Any) -> int:
    """Return the parameters that every token passes: all but embeddings."""
    named = [(name, parameter.numel()) for name, parameter in module.named_parameters()]
    return sum(count for name, count in named if "embed" not in name)

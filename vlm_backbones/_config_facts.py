"""What a backbone's configuration says of its attention, and of dropout, which training takes none of. No torch."""

from __future__ import annotations

from typing import Any

__all__ = ["attention_window", "dropouts", "rotary_positions"]


def dropouts(config: Any) -> dict[str, float]:
    """Return the shares that training would drop at random, by key (attention_dropout, resid_pdrop); zeros left out."""
    return {
        name: float(value)
        for name, value in sorted(vars(config).items())
        if "drop" in name and isinstance(value, int | float) and not isinstance(value, bool) and value
    }


def attention_window(config: Any) -> int | None:
    """Return how many tokens back an attention layer sees, in those layers that see not all; None where all do."""
    if not getattr(config, "use_sliding_window", True):
        return None
    return getattr(config, "sliding_window", None)


def rotary_positions(config: Any) -> dict[str, Any]:
    """Return how positions are turned into angles: base, and what stretches a context; empty where nothing is said."""
    return dict(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {})

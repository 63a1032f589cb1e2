"""What a GPU holds in training, from shapes alone: weights, gradients, moments and activations, shared or not.

A trained parameter has a float32 weight, a gradient and two moments: 16 bytes; where products are in bf16, the copy of
its weight that they are made of as well. A frozen linear layer is held in the type of its products, in 4 bits under
QLoRA; embeddings, norms and the vision tower in float32. Of G processes each holds

- `none`: all of it;
- `fsdp2`: a G-th, and while they are used two layers, the embeddings and the head whole, with their gradients;
- `zero3`: a G-th, the weights twice (float32 and bf16), and DeepSpeed's buckets and live parameters;
- `zero2`: the weights whole in bf16, a G-th of the gradients, float32 weights and moments, and the buckets.

The tower is shared by nobody. Activations are those of one micro-batch: states at every layer's edge and one layer's
inside where they are recomputed, else the inside of all; and three float32 copies of the supervised tokens' logits.
"""

from __future__ import annotations

__all__ = ["RESERVED_GB", "Activations", "Weights"]

from dataclasses import dataclass

from vlm_backbones.study import Sharding

RESERVED_GB = 3.0
"""CUDA's context and what the allocator cannot use."""
_NF4_BYTES = 0.53
_BUCKET_PARAMETERS = 5e8
"""DeepSpeed's own default of what is summed at a time, held twice."""
_LIVE_PARAMETERS = 1e9
"""DeepSpeed's own default of what ZeRO-3 keeps gathered."""


@dataclass(frozen=True)
class Weights:
    """Numbers of parameters by how they are held."""

    trained: int
    frozen_linear: int
    frozen_other: int
    """Embeddings and norms."""
    four_bits: int
    tower: int
    layer: int
    """Of one decoder layer, adapters included."""
    edges: int
    """Of embeddings, head and projector, which are gathered together."""
    is_llm_trained: bool
    width: int
    """Bytes of the type of the products: 2 for bf16."""

    def bytes_held(self, sharding: Sharding, count: int) -> float:
        """Return what one of so many GPUs holds of weights, gradients and moments."""
        tower = 4 * self.tower
        if sharding == "none" or count == 1:
            copies = self.width if self.width < 4 else 0
            return self.trained * (16 + copies) + self._frozen_bytes() + tower
        if sharding == "fsdp2":
            return (self.trained * 16 + self._frozen_bytes()) / count + self._gathered_bytes() + tower
        frozen = self.width * (self.frozen_linear + self.frozen_other) + self.four_bits * _NF4_BYTES
        everything = self.trained + self.frozen_linear + self.frozen_other
        buckets = 2 * self.width * min(_BUCKET_PARAMETERS, self.trained)
        if sharding == "zero2":
            return self.width * self.trained + (12 + self.width) * self.trained / count + frozen + buckets + tower
        live = self.width * min(_LIVE_PARAMETERS, everything)
        return ((12 + 2 * self.width) * self.trained + frozen) / count + buckets + live + tower

    def _frozen_bytes(self) -> float:
        return self.width * self.frozen_linear + 4 * self.frozen_other + _NF4_BYTES * self.four_bits

    def _gathered_bytes(self) -> float:
        """Return what FSDP2 holds whole for a moment: weights, and gradients before they are summed in float32."""
        gradients = (self.width + 4) * (self.layer + self.edges) if self.is_llm_trained else 0
        return self.width * (2 * self.layer + self.edges) + gradients


@dataclass(frozen=True)
class Activations:
    """Of one example, in bytes."""

    edges: float
    """Of the states between layers, in float32."""
    inside: float
    """Of one layer's inside."""
    kept_layers: int
    """How many layers' insides are held at a time."""
    logits: float
    rows: int
    """Examples of a micro-batch."""
    batch_size: int
    width: int

    def bytes_held(self, sharding: Sharding, count: int) -> float:
        """Return what one of so many GPUs holds; where weights are shared, states are in the type of the products."""
        rows = min(self.rows, max(1, self.batch_size // count))
        edges = self.edges * (1 if sharding == "none" else self.width / 4)
        return rows * (edges + self.inside * self.kept_layers + self.logits)

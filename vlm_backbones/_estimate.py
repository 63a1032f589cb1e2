"""What a study will need: operations, memory and hours of every training stage, from shapes and counts alone.

Operations, per example of T tokens (image tokens and text) through an LLM of N parameters in its layers, of which each
costs a multiplication and an addition a token (Kaplan et al. 2020): 2 N T forward; as much again for the gradients of
the activations, which reach the projector through the whole LLM; as much again for the gradients of the weights where
the LLM is trained in full; and another forward where activations are recomputed, or may be. Attention adds 2 T^2 d a
layer forward (causal: half of 4 T^2 d). The vision tower adds a forward per picture, and the output head its supervised
tokens.

Hours = operations / (GPUs x peak x utilisation). The utilisations are fitted to the hours that LLaVA-1.5 and ViP-LLaVA
publish for eight A100 (docs/reproducing.md); their eight runs come out within 20 %.

Memory: `_memory.py`.
"""

from __future__ import annotations

__all__ = ["COUNTS", "GPUS", "Gpu", "Shapes", "StageEstimate", "estimate_stage", "estimate_study", "measured_data"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlm_backbones._memory import RESERVED_GB, Activations, Weights
from vlm_backbones.backbones import get_backbone
from vlm_backbones.data.order import count_steps
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.run import Run
from vlm_backbones.study import ExpectedData, Sharding, Study
from vlm_backbones.vision import VisionTower, get_vision_tower

_FLAT_TOKENS = 16_384


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU: memory in GB, peak of bf16 products in operations a second (dense, from its data sheet)."""

    name: str
    memory_gb: float
    peak: float


GPUS = (
    Gpu("RTX 3090", 24, 71e12),
    Gpu("A100 40 GB", 40, 312e12),
    Gpu("A100 80 GB", 80, 312e12),
    Gpu("H200 141 GB", 141, 989e12),
)
COUNTS = (1, 2, 4, 8, 16, 32, 64)
_UTILISATION = {"projector": 0.45, "llm": 0.27, "lora": 0.27}


@dataclass(frozen=True)
class StageEstimate:
    """What one stage of one backbone needs."""

    backbone: str
    stage: str
    examples: int
    tokens: int
    """An example's, on average, picture included."""
    operations: float
    weights: Weights
    activations: Activations
    utilisation: float

    @property
    def trained_parameters(self) -> int:
        """How many are trained."""
        return self.weights.trained

    def hours(self, gpu: Gpu, count: int) -> float:
        """Return the hours on so many GPUs."""
        return self.operations / (count * gpu.peak * self.utilisation) / 3600

    def memory_gb(self, sharding: Sharding = "none", count: int = 1) -> float:
        """Return what one of so many GPUs needs."""
        held = self.weights.bytes_held(sharding, count) + self.activations.bytes_held(sharding, count)
        return held / 1e9 + RESERVED_GB

    def fewest(self, gpu: Gpu, sharding: Sharding) -> int | None:
        """Return the fewest GPUs of a kind that hold the stage; None where none do, or where it cannot be shared."""
        if sharding != "none" and self.weights.four_bits:
            return None
        counts = COUNTS[:1] if sharding == "none" else COUNTS[1:]
        return next((count for count in counts if self.memory_gb(sharding, count) <= gpu.memory_gb), None)


@dataclass(frozen=True)
class Shapes:
    """The numbers that the formulas read."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    llm: int
    """Parameters of the LLM; of them `linear` in the decoder layers' products, `head` in an output head of its own."""
    linear: int
    head: int
    projector: int
    tower: int
    lora_sizes: int
    """Sum of inputs and outputs over the decoder layers' linear layers: parameters of adapters of rank 1."""


def estimate_study(study: Study, examples: Mapping[str, ExpectedData] | None = None) -> list[StageEstimate]:
    """Return the estimate of every backbone's every stage.

    Parameters
    ----------
    examples
        By stage, what its data holds; left out, what the study expects of it. Stages of unknown data are left out.
    """
    known = {**study.data.expected, **(examples or {})}
    tower = get_vision_tower(study.vision_tower)
    estimates = []
    for backbone in study.backbones:
        shapes = _read_shapes(backbone, tower)
        for name, recipe in study.recipe_for(backbone).stages.items():
            if name in known:
                run = Run(backbone).name
                estimates.append(estimate_stage(run, name, recipe, known[name], shapes, tower))
    return estimates


def measured_data(certificate: Mapping[str, Any]) -> dict[str, ExpectedData]:
    """Return what a checked study's stages hold, as its first backbone's tokenizer counts it."""
    facts = next(iter(certificate["backbones"].values()))["stages"]
    found = {}
    for stage, row in facts.items():
        counts = certificate["data"][stage]
        share = counts["with image"] / max(1, counts["examples"])
        text = row["tokens_an_example"] - share * certificate["equal"]["image_tokens"]
        found[stage] = ExpectedData(examples=counts["examples"], text_tokens=max(1, round(text)), with_image=share)
    return found


def _read_shapes(backbone: str, tower: VisionTower) -> Shapes:
    from torch import nn

    from vlm_backbones.vlm.full_size import build_on_meta

    model: Any = build_on_meta(get_backbone(backbone), tower)
    config = model.config.text_config
    layers: Any = model.model.language_model.layers
    linear = [module for module in layers.modules() if isinstance(module, nn.Linear)]

    def count(module: nn.Module) -> int:
        return sum(weight.numel() for weight in module.parameters())

    tied = bool(config.tie_word_embeddings)
    return Shapes(
        layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        intermediate=int(config.intermediate_size),
        vocabulary=int(config.vocab_size),
        llm=count(model.model.language_model) + (0 if tied else count(model.lm_head)),
        linear=sum(module.weight.numel() for module in linear),
        head=0 if tied else count(model.lm_head),
        projector=count(model.model.multi_modal_projector),
        tower=count(model.model.vision_tower),
        lora_sizes=sum(module.in_features + module.out_features for module in linear),
    )


def estimate_stage(
    backbone: str, stage: str, recipe: StageRecipe, data: ExpectedData, shapes: Shapes, tower: VisionTower
) -> StageEstimate:
    """Return what a stage needs, by the formulas above."""
    steps = count_steps(data.examples, recipe.batch_size, recipe.steps, recipe.epochs)
    tokens = min(recipe.max_length_tokens, round(tower.image_tokens * data.with_image + data.text_tokens))
    supervised = data.text_tokens / 2 if recipe.chat_format != "plain" else data.text_tokens
    full = "llm" in recipe.trainable and recipe.lora is None
    forward = 2 * shapes.linear * tokens + 2 * tokens**2 * shapes.hidden * shapes.layers
    passes = 2 + full + _recomputes(recipe)
    head = 2 * shapes.vocabulary * shapes.hidden * supervised * (2 + full)
    example = forward * passes + head + 2 * shapes.tower * (tower.image_tokens + 1) * data.with_image
    adapters = recipe.lora.r * shapes.lora_sizes if recipe.lora is not None else 0
    trained = adapters + (shapes.projector if "projector" in recipe.trainable else 0) + (shapes.llm if full else 0)
    return StageEstimate(
        backbone=backbone,
        stage=stage,
        examples=steps * recipe.batch_size,
        tokens=tokens,
        operations=float(example) * steps * recipe.batch_size,
        weights=_weights(recipe, shapes, trained, adapters),
        activations=_activations(recipe, shapes, tokens, supervised),
        utilisation=_UTILISATION["llm" if full else "lora" if adapters else "projector"],
    )


def _weights(recipe: StageRecipe, shapes: Shapes, trained: int, adapters: int) -> Weights:
    full = "llm" in recipe.trainable and recipe.lora is None
    linear = 0 if full else shapes.linear + shapes.head
    four_bits = shapes.linear if recipe.quantization is not None else 0
    other = 0 if full else shapes.llm - shapes.linear - shapes.head
    embeddings = shapes.vocabulary * shapes.hidden
    return Weights(
        trained=trained,
        frozen_linear=linear - four_bits + (0 if "projector" in recipe.trainable else shapes.projector),
        frozen_other=other,
        four_bits=four_bits,
        tower=shapes.tower,
        layer=(shapes.linear + adapters) // shapes.layers,
        edges=embeddings + shapes.head + shapes.projector,
        is_llm_trained=full,
        width=_width(recipe),
    )


def _activations(recipe: StageRecipe, shapes: Shapes, tokens: int, supervised: float) -> Activations:
    return Activations(
        edges=tokens * shapes.hidden * 4 * shapes.layers,
        # eight states of the hidden size (norms, query to output, sums) and three of the MLP's
        inside=tokens * (8 * shapes.hidden + 3 * shapes.intermediate) * _width(recipe),
        kept_layers=1 if _recomputes(recipe) else shapes.layers,
        logits=supervised * shapes.vocabulary * 4 * 3,
        rows=recipe.micro_batch_size or max(1, min(recipe.batch_size, _FLAT_TOKENS // tokens)),
        batch_size=recipe.batch_size,
        width=_width(recipe),
    )


def _recomputes(recipe: StageRecipe) -> bool:
    """Whether activations are recomputed; where the recipe leaves it open, they are as soon as memory is short."""
    return recipe.gradient_checkpointing is not False


def _width(recipe: StageRecipe) -> int:
    return 2 if recipe.precision == "bf16" else 4

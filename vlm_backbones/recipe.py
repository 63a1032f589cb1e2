"""Recipe: how each backbone is trained, as strict pydantic models. No torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from vlm_backbones._names import known_chat_formats
from vlm_backbones.errors import nearest

__all__ = ["Lora", "Recipe", "StageRecipe", "Strict", "at_learning_rate"]


class Strict(BaseModel):
    """A frozen model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Lora(Strict):
    """Low-rank adapters on the LLM's linear layers."""

    r: int = Field(default=128, ge=1)
    alpha: float = Field(default=256.0, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    target: str | list[str] = "all-linear"
    """Leaf names of the LLM's linear layers; `all-linear` means every one but the output head."""


class StageRecipe(Strict):
    """One training stage; the numbers are the same for every backbone of a study."""

    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; give this or `epochs`."""
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int = Field(ge=1)
    """Examples an optimizer step, over all devices."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Examples a forward pass of one device; left out, as many as memory is known to hold. The loss does not depend
    on it: every supervised token of a step counts alike, however the step is divided."""
    learning_rate: float = Field(gt=0)
    projector_learning_rate: float | None = Field(default=None, gt=0)
    """Of the projector where it differs (LLaVA's mm_projector_lr)."""
    warmup_ratio: float = Field(default=0.0, ge=0, le=1)
    warmup_steps: int | None = Field(default=None, ge=0)
    """Overrides `warmup_ratio` where given."""
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    """The learning rate at the end, as a share of `learning_rate`."""
    max_length_tokens: int = Field(default=2048, ge=8)
    """Longest sequence after the image is expanded into its tokens; longer ones are cut and counted."""
    trainable: Annotated[list[Literal["projector", "llm"]], Field(min_length=1)] = ["projector", "llm"]
    lora: Lora | None = None
    quantization: Literal["nf4"] | None = None
    """Holds the frozen LLM in 4 bits under its adapters (QLoRA: NF4, double quantisation, bf16 products)."""
    gradient_checkpointing: bool | None = None
    """Recompute each layer in the backward pass instead of keeping its activations; left out, where memory is not
    enough without. What is learned does not depend on it."""
    chat_format: str | None = None
    """Name of a template of this stage alone, as `plain` in LLaVA's pretraining; left out, the study's."""
    image_aspect_ratio: Literal["pad", "crop"] | None = None
    """`pad` to a square on the mean colour, or `crop` the centre (CLIP's own, LLaVA's "square"); left out, the
    vision tower's."""
    batch_grouping: Literal["length", "modality", "none"] = "length"
    """Which examples share a step: of similar length, with or without image (LLaVA's group_by_modality_length), or
    any. No tokenizer has a say in it."""
    answer_weighting: Literal["token", "inverse_sqrt_length"] = "token"
    """`token`: every supervised token counts alike; `inverse_sqrt_length`: an answer of n tokens weighs n^0.5."""
    precision: Literal["float32", "bf16"] = "float32"
    data_seed: int = Field(default=0, ge=0)
    """Seed of the order of examples, shared by all backbones."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of 'steps' and 'epochs'")
        if self.lora is not None and "llm" not in self.trainable:
            raise ValueError("'lora' adapts the llm, which 'trainable' does not name: add llm or leave lora out")
        if self.quantization is not None and self.lora is None:
            raise ValueError("'quantization' freezes the llm in 4 bits: add 'lora', whose adapters are trained")
        if self.projector_learning_rate is not None and "projector" not in self.trainable:
            raise ValueError("'projector_learning_rate' is given, but 'trainable' does not name the projector")
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(f"'micro_batch_size' {self.micro_batch_size} does not divide 'batch_size'")
        return self

    @field_validator("chat_format")
    @classmethod
    def _known_format(cls, value: str | None) -> str | None:
        known = known_chat_formats()
        if value is not None and value not in known:
            raise ValueError(f"unknown chat format {value!r}.{nearest(value, known)}")
        return value


class Recipe(Strict):
    """The stages of training: the projector is aligned, then projector and LLM are finetuned."""

    name: str = "custom"
    align: StageRecipe | None = None
    finetune: StageRecipe | Annotated[list[StageRecipe], Field(min_length=1)]
    standardize_features: bool = True
    """Train the projector on features of zero mean and unit variance, folded into its weights at the end; the
    published recipes did not."""

    @property
    def finetune_stages(self) -> list[StageRecipe]:
        """The finetuning stages in order, one or many."""
        return self.finetune if isinstance(self.finetune, list) else [self.finetune]

    @property
    def stages(self) -> dict[str, StageRecipe]:
        """Every stage in order by name: align, finetune, finetune-2, ..."""
        align = {} if self.align is None else {"align": self.align}
        names = ["finetune", *(f"finetune-{number}" for number in range(2, len(self.finetune_stages) + 1))]
        return align | dict(zip(names, self.finetune_stages, strict=True))

    @model_validator(mode="after")
    def _kept_format(self) -> Self:
        if self.finetune_stages[-1].chat_format == "plain":
            raise ValueError("the last stage cannot use chat_format 'plain', which knows no questions and no end")
        return self


def at_learning_rate(recipe: Recipe, rate: float) -> Recipe:
    """Return a recipe whose first finetuning stage has this rate; the other finetuning rates keep their ratio to it."""
    factor = rate / recipe.finetune_stages[0].learning_rate
    stages = [_scaled(stage, factor) for stage in recipe.finetune_stages]
    stages[0] = stages[0].model_copy(update={"learning_rate": rate})
    return recipe.model_copy(update={"finetune": stages if isinstance(recipe.finetune, list) else stages[0]})


def _scaled(stage: StageRecipe, factor: float) -> StageRecipe:
    own = stage.projector_learning_rate
    rates = {"learning_rate": stage.learning_rate * factor, "projector_learning_rate": own and own * factor}
    return stage.model_copy(update=rates)

"""Recipe: how each backbone is trained, as strict pydantic models. No torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Lora", "Recipe", "StageRecipe", "Strict"]


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
    learning_rate: float = Field(gt=0)
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
        return self


class Recipe(Strict):
    """The stages of training: the projector is aligned, then projector and LLM are finetuned."""

    name: str = "custom"
    align: StageRecipe | None = None
    finetune: StageRecipe | Annotated[list[StageRecipe], Field(min_length=1)]

    @property
    def finetune_stages(self) -> list[StageRecipe]:
        """The finetuning stages in order, one or many."""
        return self.finetune if isinstance(self.finetune, list) else [self.finetune]

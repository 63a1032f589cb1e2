"""The config.json of an original checkpoint: which LLM, which layers of which tower, which projector."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from transformers import LlamaConfig, MistralConfig, Phi3Config

from vlm_backbones.errors import CheckpointError
from vlm_backbones.json_text import parse_json

__all__ = ["VIP_LAYERS", "OriginalConfig", "build_text_config", "is_original", "parse_config", "read_config"]

_TEXT_CONFIGS: dict[str, Any] = {
    "LlavaLlamaForCausalLM": LlamaConfig,
    "LlavaMistralForCausalLM": MistralConfig,
    "LlavaPhi3ForCausalLM": Phi3Config,
}
_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
          "vocab_size")  # fmt: skip
_LARGEST = 2**20
_ORIGINAL = re.compile(r"^(Vip)?Llava[A-Z]\w*ForCausalLM$")
_VIP_TOWER = "clip_4layers"
VIP_LAYERS = (-2, -5, -8, -11, 6)
"""Wired into ViP-LLaVA's code, whatever its config says; the order is the projector's."""


def is_original(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is of the original format."""
    listed = config.get("architectures")
    names = listed if isinstance(listed, list) else []
    return "mm_vision_tower" in config or any(_ORIGINAL.match(str(name)) for name in names)


def read_config(folder: Path) -> dict[str, Any]:
    """Return a folder's config.json; `CheckpointError` where there is none or it is no JSON object."""
    try:
        content = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} is no checkpoint: config.json cannot be read ({error}). Copy it again, or name another folder."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{folder} is no checkpoint: config.json holds {content!r:.80}, expected a JSON object. Copy it again."
        )
    return content


class OriginalConfig(BaseModel):
    """What an original config.json says beyond its LLM; keys that change nothing here are left aside."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    mm_vision_tower: str
    mm_vision_select_layer: int = -2
    mm_vision_select_feature: Literal["patch", "cls_patch"] = "patch"
    mm_projector_type: Literal["linear", "mlp2x_gelu"] = "linear"
    mm_use_im_start_end: bool = False
    image_aspect_ratio: Literal["pad", "square"] | None = None

    @property
    def is_vip(self) -> bool:
        """Whether this is ViP-LLaVA: five layers and a norm before the projector."""
        return self.mm_vision_tower.startswith(_VIP_TOWER)

    @property
    def feature_layer(self) -> int | tuple[int, ...]:
        """The layers that the projector reads."""
        return VIP_LAYERS if self.is_vip else self.mm_vision_select_layer

    @property
    def select_strategy(self) -> str:
        """transformers' word for whether the class token is dropped."""
        return "default" if self.mm_vision_select_feature == "patch" else "full"


def parse_config(folder: Path, content: Mapping[str, Any]) -> OriginalConfig:
    """Return the settings of an original config.json.

    Raises
    ------
    CheckpointError
        Naming each key that is missing, or that has a value which transformers' classes cannot express.
    """
    try:
        return OriginalConfig.model_validate(dict(content))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, row['loc']))}: {row['msg']}" for row in error.errors())
        raise CheckpointError(
            f"{folder}: config.json of the original format cannot be converted ({problems})."
        ) from error


def build_text_config(folder: Path, content: Mapping[str, Any], names: Collection[str]) -> Any:
    """Return the LLM's configuration, of the class that `architectures` names; else that the tensors' names tell."""
    listed = content.get("architectures")
    named = [str(name) for name in (listed if isinstance(listed, list) else []) if _ORIGINAL.match(str(name))]
    if named and named[0] not in _TEXT_CONFIGS:
        known = ", ".join(_TEXT_CONFIGS)
        raise CheckpointError(f"{folder}: architecture {named[0]} is not known. Known: {known}.")
    fused = any(name.endswith("self_attn.qkv_proj.weight") for name in names)
    kind = _TEXT_CONFIGS[named[0]] if named else Phi3Config if fused else LlamaConfig
    known_keys = {*kind().to_dict(), "rope_theta", "rope_scaling"} - {"architectures", "dtype", "model_type"}
    for key in _SIZES:
        value = content.get(key, 1)
        if value is not None and not (isinstance(value, int) and 0 < value <= _LARGEST):
            raise CheckpointError(
                f"{folder}: {key} of config.json is {str(value)[:60]!r}, no size of a {kind.model_type}."
            )
    try:
        return kind(**{key: value for key, value in content.items() if key in known_keys})
    except Exception as error:  # transformers checks a configuration with errors of its own
        raise CheckpointError(f"{folder}: config.json does not describe a {kind.model_type} ({error}).") from error

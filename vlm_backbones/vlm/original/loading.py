"""From an original checkpoint's folder to (model, processor) of transformers' classes, and to a folder of ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from vlm_backbones.errors import CheckpointError, ConfigError
from vlm_backbones.vlm.composition import Vlm, add_image_token, build_processor, build_skeleton
from vlm_backbones.vlm.original.config import (
    OriginalConfig,
    build_text_config,
    is_original,
    parse_config,
    read_config,
)
from vlm_backbones.vlm.original.lora import find_base, is_lora, read_lora
from vlm_backbones.vlm.original.text import (
    build_chat_template,
    build_generation_config,
    guess_chat_format,
    load_tokenizer,
)
from vlm_backbones.vlm.original.tower import Tower, find_tower
from vlm_backbones.vlm.original.weights import Tensors, check_names, read_tensors, rename, split_tower

__all__ = ["convert", "load_original"]

_IMAGE_TOKEN = "<image>"
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_EMBEDDINGS = "model.embed_tokens.weight"


def convert(
    checkpoint: str | Path,
    out: str | Path,
    *,
    vision_tower: str | Path | None = None,
    model_base: str | Path | None = None,
    chat_format: str | None = None,
) -> None:
    """Write an original checkpoint as a folder that `load` and plain transformers open, in the type it is stored in.

    Raises
    ------
    CheckpointError, ConfigError
        As `load_original`.
    DataError
        If the folder cannot be written.
    """
    from vlm_backbones.vlm.checkpoint import save

    options: dict[str, Any] = {"vision_tower": vision_tower, "model_base": model_base}
    model, processor = load_original(checkpoint, **options, chat_format=chat_format)
    save(model, processor, out)


def load_original(
    checkpoint: str | Path,
    *,
    vision_tower: str | Path | None = None,
    model_base: str | Path | None = None,
    chat_format: str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Vlm, Any]:
    """Return (model, processor) of a folder in the original format, in evaluation mode.

    Parameters
    ----------
    vision_tower
        Folder of the tower that the checkpoint names; needed where the hub cannot be reached.
    model_base
        Folder of the LLM that a LoRA adapter belongs to.
    chat_format
        Name of the conversation; by default the one that the original evaluation used for its kind.
    dtype
        Type of the weights; by default the stored one.

    Raises
    ------
    CheckpointError
        If the folder is of another format, or tensors are missing, left over or of another shape; names them.
    ConfigError
        If the chat format is unknown, or a feature layer lies outside the tower.
    """
    folder = Path(checkpoint)
    content = _read_config(folder)
    config = parse_config(folder, content)
    base = find_base(folder, None if model_base is None else Path(model_base).expanduser()) if is_lora(folder) else None
    tensors, embedded = split_tower(read_tensors(folder) if base is None else read_lora(folder, base))
    if _EMBEDDINGS not in tensors:
        raise CheckpointError(
            f"{folder}: the tensors do not fit its config.json; missing: {_EMBEDDINGS}. Copy both again."
        )
    dtype = dtype or tensors[_EMBEDDINGS].dtype
    text_config = build_text_config(folder, content, tensors)
    tower = find_tower(config, embedded, folder, None if vision_tower is None else _folder(vision_tower))
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    tokenizer = load_tokenizer(folder if base is None or has_tokenizer else base, text_config)
    chat_format = chat_format or guess_chat_format(config, text_config, tokenizer)
    template = build_chat_template(folder, config, chat_format, tokenizer)
    model = _build_model(folder, config, text_config, tower, tensors, dtype)
    add_image_token(model, tokenizer, _IMAGE_TOKEN)
    model.config.image_token_id = int(tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN))
    model.generation_config = build_generation_config(folder, chat_format, tokenizer)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):  # the oldest checkpoints' own are wrong
        setattr(model.config.text_config, name, getattr(tokenizer, name))
    return model, build_processor(tower.row, tower.image_processor, tokenizer, template, _IMAGE_TOKEN)


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"--vision-tower {folder} is no folder: give a vision tower in transformers' format.")
    return folder


def _read_config(folder: Path) -> dict[str, Any]:
    content = read_config(folder)
    if not is_original(content):
        found = str(content.get("architectures") or content.get("model_type"))[:80]
        raise CheckpointError(
            f"{folder} is not in the original LLaVA format: neither mm_vision_tower nor an original architecture in "
            f"config.json, found {found}. transformers' own format needs no conversion."
        )
    return content


def _build_model(
    folder: Path, config: OriginalConfig, text_config: Any, tower: Tower, tensors: Tensors, dtype: torch.dtype
) -> Vlm:
    text_config.vocab_size = len(tensors[_EMBEDDINGS])  # tokens were added without a change of the config
    text_config.pad_token_id = None
    single = config.mm_projector_type == "linear" and not config.is_vip
    options = {"projector_hidden_act": "linear"} if single else {}
    _check_layers(folder, text_config, tensors)
    try:
        skeleton: Any = build_skeleton(text_config, tower.config, tower.row, 0, **options)
    except Exception as error:  # transformers divides, indexes and looks up with what a configuration says
        raise CheckpointError(
            f"{folder}: no model can be built of its config.json ({error!r}). Copy it again."
        ) from error
    state = rename(tensors) | {f"model.vision_tower.{name}": value for name, value in tower.tensors.items()}
    if single:
        state |= _identity_layer(text_config.hidden_size)
    if text_config.tie_word_embeddings:
        state.setdefault("lm_head.weight", state["model.language_model.embed_tokens.weight"])
    check_names(folder, state, skeleton.state_dict())
    loaded = type(skeleton).from_pretrained(None, config=skeleton.config, state_dict=state, dtype=dtype)
    model: Vlm = loaded.eval()
    return model


def _check_layers(folder: Path, text_config: Any, tensors: Tensors) -> None:
    """Refuse another number of layers than there are weights for, before they are built."""
    stored = {match[1] for match in map(_LAYER.match, tensors) if match}
    if len(stored) != text_config.num_hidden_layers:
        raise CheckpointError(
            f"{folder}: config.json has {text_config.num_hidden_layers} layers, the weights have {len(stored)}. "
            "Copy both again."
        )


def _identity_layer(width: int) -> Tensors:
    """Return a second layer that changes nothing: the first recipe's projector is one linear layer."""
    name = "model.multi_modal_projector.linear_2"
    return {f"{name}.weight": torch.eye(width), f"{name}.bias": torch.zeros(width)}

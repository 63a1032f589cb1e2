"""Where answers end: at the end tokens that a backbone's own files name, and at its chat format's end of turn."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

from vlm_backbones._hub import file_of, loading_options, opening_error
from vlm_backbones.backbones import Backbone
from vlm_backbones.data.chat_format import special_token_ids, stop_token_ids
from vlm_backbones.errors import CheckpointError

__all__ = ["answer_ends"]


def answer_ends(row: Backbone, tokenizer: Any, config: Any, template: str) -> list[int]:
    """Return the ids of all tokens that end an answer, the backbone's own first.

    Raises
    ------
    CheckpointError
        If the backbone's own are tokens of ordinary text, at which answers would be cut.
    ConfigError
        If the template ends an answer with no special token.
    """
    file, own = _own_ends(row, config)
    known = special_token_ids(tokenizer) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    words = [token for token in own if token not in known and 0 <= token < len(tokenizer)]
    if words:
        named = ", ".join(f"{token} ({str(tokenizer.convert_ids_to_tokens(token))!r})" for token in words)
        raise CheckpointError(
            f"backbone {row.id}: eos_token_id of {row.source}/{file} names {named}, which the tokenizer uses for "
            "ordinary text: every answer would be cut there. Keep the ids of special tokens only."
        )
    return list(dict.fromkeys([*own, *stop_token_ids(tokenizer, template, row.stop_tokens)]))


def _own_ends(row: Backbone, config: Any) -> tuple[str, list[int]]:
    """Return the end tokens that transformers' generation would stop at, and the file that names them."""
    load: Any = GenerationConfig
    file, found = "config.json", None
    try:
        found = load.from_pretrained(row.source, **loading_options(row))
        file = "generation_config.json"
    except OSError as error:  # there is none, or it is damaged
        if file_of(row, "generation_config.json") is not None:
            raise opening_error("backbone", row, error) from error
        found = load.from_model_config(config)
    except Exception as error:  # a damaged file makes transformers raise nearly anything
        raise opening_error("backbone", row, error) from error
    own = found.eos_token_id
    return file, [own] if isinstance(own, int) else [int(token) for token in own or []]

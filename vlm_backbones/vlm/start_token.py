"""One start token: the chat template writes it, so a checkpoint's tokenizer must not add another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import processors

__all__ = ["add_no_tokens", "write_setting"]


def add_no_tokens(tokenizer: Any) -> None:
    """Let a tokenizer turn text into that text's tokens alone, as training does.

    Otherwise a chat that is rendered first and tokenised afterwards, as in `processor(text=...)` or by a server, would
    get the start token twice: transformers leaves its own out only in `apply_chat_template(tokenize=True)`. A setting
    alone does not reach it: Llama 3's is added by the post-processor of tokenizer.json.
    """
    if not tokenizer.is_fast:
        return  # without tokenizer.json there are no offsets either, and the label mask is refused
    backend = tokenizer.backend_tokenizer
    adding: Any = backend.post_processor
    if adding is None or not adding.num_special_tokens_to_add(False):
        return
    several = isinstance(adding, processors.Sequence)
    parts = list(adding) if several else [adding]
    kept = [part for part in parts if not part.num_special_tokens_to_add(False)]
    tokenizer.add_bos_token = tokenizer.add_eos_token = False  # puts an empty post-processor in place
    if kept:
        backend.post_processor = processors.Sequence(kept)  # what trims the tokens' offsets, which labels are cut by


def write_setting(folder: Path, tokenizer: Any) -> None:
    """Say in a saved folder too that nothing is added: transformers 4 builds Llama's post-processor from settings."""
    path = folder / "tokenizer_config.json"
    if not tokenizer.is_fast or tokenizer.bos_token is None or tokenizer.num_special_tokens_to_add():
        return
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {"add_bos_token": False}, indent=2) + "\n", encoding="utf-8")

"""Chat format: which template a checkpoint is trained and evaluated with, and turns to ids and label masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from vlm_backbones.errors import ConfigError, DataError, nearest

__all__ = ["EncodedChat", "chat_messages", "encode_chats", "get_chat_template"]

_FOLDER = Path(__file__).parent / "chat_formats"
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def get_chat_template(chat_format: str, tokenizer: Any) -> str:
    """Return the template text of a chat format: `native` is the tokenizer's own, others are files of this package.

    Raises
    ------
    ConfigError
        If the format is unknown, or the tokenizer has no template with generation marks to train on.
    """
    if chat_format == "native":
        template = tokenizer.chat_template
        if not isinstance(template, str) or not _GENERATION.search(template):
            raise ConfigError(
                f"{tokenizer.name_or_path}: chat_format native needs a chat template that marks the answer with "
                "{% generation %}, and this tokenizer has none. Use chat_format: shared."
            )
        return template
    path = _FOLDER / f"{chat_format}.jinja"
    if not path.is_file():
        known = ["native", *(file.stem for file in _FOLDER.glob("*.jinja"))]
        raise ConfigError(f"unknown chat format {chat_format!r}.{nearest(chat_format, known)}")
    return path.read_text(encoding="utf-8")


@dataclass(frozen=True)
class EncodedChat:
    """One rendered conversation; the image is one token, not yet expanded."""

    ids: list[int]
    supervised: list[bool]
    """Per token, whether it belongs to an answer or its end of turn."""


def chat_messages(turns: Sequence[tuple[str, str]], *, with_image: bool) -> list[dict[str, Any]]:
    """Return (question, answer) turns as chat messages; the image stands first in the first user message."""
    messages: list[dict[str, Any]] = []
    for index, (question, answer) in enumerate(turns):
        image = [{"type": "image"}] if with_image and index == 0 else []
        messages.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages


def encode_chats(tokenizer: Any, template: str, chats: Sequence[list[dict[str, Any]]]) -> list[EncodedChat]:
    """Render conversations and return their ids and label masks, from the template's generation marks.

    Raises
    ------
    ConfigError
        If the template cannot be rendered.
    DataError
        If a token straddles the start or the end of an answer: the prompt alone would then get other ids in
        evaluation than in training, and the mask would be wrong.
    """
    if not chats:
        return []
    special: dict[str, Any] = {
        name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)
    }
    try:
        rendered: Any = render_jinja_template(
            conversations=list(chats), chat_template=template, return_assistant_tokens_mask=True, **special
        )
    except (TemplateError, TypeError) as error:
        raise ConfigError(
            f"{tokenizer.name_or_path}: the chat template cannot be rendered ({error}). Mend it, or use "
            "chat_format: shared."
        ) from error
    texts, spans = rendered
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    return [
        EncodedChat(ids, _supervised(offsets, answer_spans, text))
        for ids, offsets, answer_spans, text in zip(
            encoded["input_ids"], encoded["offset_mapping"], spans, texts, strict=True
        )
    ]


def _supervised(offsets: list[tuple[int, int]], spans: Sequence[tuple[int, int]], text: str) -> list[bool]:
    mask = [False] * len(offsets)
    for low, high in spans:
        for index, (start, end) in enumerate(offsets):
            if end <= low or start >= high:
                continue
            if start < low or end > high:
                raise DataError(
                    f"the token {text[start:end]!r} lies across the edge of the answer {text[low:high]!r}: labels "
                    "would not match the answer's text. Use another chat format."
                )
            mask[index] = True
    return mask

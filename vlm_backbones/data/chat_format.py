"""Chat format: which template a checkpoint is trained and evaluated with, and turns to ids and label masks."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_backbones.data.chat_rendering import TemplateError, render_chats
from vlm_backbones.errors import CheckpointError, ConfigError, nearest

__all__ = [
    "EncodedChat",
    "chat_messages",
    "encode_chats",
    "evaluation_prompt",
    "evaluation_prompt_ids",
    "get_chat_template",
    "special_token_ids",
    "stop_token_ids",
]

_FOLDER = Path(__file__).parent / "chat_formats"
_NO_GAP, _GAP = "{%- set gap = '' -%}", "{%- set gap = ' ' -%}"
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def get_chat_template(chat_format: str, tokenizer: Any, *, native: str | None = None) -> str:
    """Return the template text of a chat format.

    Parameters
    ----------
    chat_format
        `native`, or the name of a template of this package.
    native
        What `native` means for this backbone: a name of its registry row; left out, the tokenizer's own template.

    Raises
    ------
    ConfigError
        If the format is unknown, or the tokenizer has no template with generation marks to train on.
    """
    name = (native or "native") if chat_format == "native" else chat_format
    ours = sorted(file.stem for file in _FOLDER.glob("*.jinja"))
    if name == "native":
        return _own_template(tokenizer, ours)
    if name not in ours:
        raise ConfigError(f"unknown chat format {name!r}.{nearest(name, ['native', *ours])}")
    template = (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    return template.replace(_NO_GAP, _GAP) if _needs_gap(tokenizer) else template


def _needs_gap(tokenizer: Any) -> bool:
    """Return whether text behind a special token needs a space in front to become the tokens of the text alone.

    The original projects tokenised the text on either side of the image by itself. SentencePiece starts such a text
    with "\u2581"; the newer of LLaMA's tokenizers do so at the start of the whole alone, where the start token stands.
    """
    bos = tokenizer.bos_token
    if bos is None:
        return False
    alone, behind, spaced = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", f"{bos}a", f"{bos} a")
    )
    return bool(behind[1:] != alone and spaced[1:] == alone)


def _own_template(tokenizer: Any, ours: Sequence[str]) -> str:
    template = tokenizer.chat_template
    if isinstance(template, str) and _GENERATION.search(template):
        return template
    found = "its template has no such mark" if template else "this tokenizer has no template"
    raise ConfigError(
        f"{tokenizer.name_or_path}: chat_format native needs a chat template that marks the answer with "
        f"{{% generation %}}, and {found}. Use chat_format: shared, or name the format that the model was tuned with: "
        f"{', '.join(name for name in ours if name not in {'plain', 'shared'})}."
    )


def stop_token_ids(tokenizer: Any, template: str, stop_tokens: Sequence[str] = ()) -> list[int]:
    """Return the ids that end an answer: the tokenizer's own, the given ones, and the chat format's end of turn.

    Parameters
    ----------
    stop_tokens
        Texts of further stop tokens, as a registry row names them.

    Raises
    ------
    ConfigError
        If the template ends an answer with text that is no token of the tokenizer, so that no answer would end.
    CheckpointError
        If a stop token is unknown to the tokenizer.
    """
    known = tokenizer.get_vocab()
    missing = [token for token in stop_tokens if token not in known]
    if missing:
        raise CheckpointError(
            f"{tokenizer.name_or_path}: the tokenizer does not know the stop token {', '.join(missing)} of the "
            "backbone's registry row. Is this another model's tokenizer? Give a folder that holds the row's own."
        )
    own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    found = [*own, *(int(known[token]) for token in stop_tokens), _end_of_turn(tokenizer, template)]
    return list(dict.fromkeys(found))


def _end_of_turn(tokenizer: Any, template: str) -> int:
    """Return the special token with which the template ends an answer."""
    (chat,) = encode_chats(tokenizer, template, [chat_messages([("Why?", "So.")], with_image=True)])
    answer = [token for token, supervised in zip(chat.ids, chat.supervised, strict=True) if supervised]
    last = next((token for token in reversed(answer) if str(tokenizer.decode([token])).strip()), None)
    if last is None or last == tokenizer.unk_token_id or last not in special_token_ids(tokenizer):
        raise ConfigError(
            f"{tokenizer.name_or_path}: the chat template ends an answer as {tokenizer.decode(answer)!r}, and the "
            "tokenizer has no special token there, so no answer would ever end. Name a chat_format that fits it."
        )
    return last


def special_token_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of the tokens that stand for no text: those by name, and those added as special."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(map(int, tokenizer.all_special_ids)) | {int(key) for key, one in added.items() if one.special}


@dataclass(frozen=True)
class EncodedChat:
    """One rendered conversation; the image is one token, not yet expanded."""

    ids: list[int]
    supervised: list[bool]
    """Per token, whether it belongs to an answer or its end of turn."""
    problem: str | None = None
    """Why the mask cannot be used: a token over the edge of an answer would make the prompt alone, in evaluation,
    other ids than in training."""


def chat_messages(turns: Sequence[tuple[str, str]], *, with_image: bool) -> list[dict[str, Any]]:
    """Return (question, answer) turns as chat messages; the image stands first in the first user message."""
    messages: list[dict[str, Any]] = []
    for index, (question, answer) in enumerate(turns):
        image = [{"type": "image"}] if with_image and index == 0 else []
        messages.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages


def evaluation_prompt(tokenizer: Any, template: str, question: str, *, with_image: bool) -> str:
    """Return the text with which an evaluation asks a question.

    Raises
    ------
    ConfigError
        If the template cannot be rendered.
    """
    messages = chat_messages([(question, "")], with_image=with_image)[:1]
    try:
        ((text, _),) = render_chats(tokenizer, template, [messages], add_generation_prompt=True)
    except TemplateError as error:
        raise ConfigError(
            f"{tokenizer.name_or_path}: the chat template cannot be rendered without an answer ({error}). Mend it."
        ) from error
    return text


def evaluation_prompt_ids(tokenizer: Any, template: str, question: str, *, with_image: bool) -> list[int]:
    """Return the ids of `evaluation_prompt`, the image as one token.

    The tokenizer adds its start token unless the template has written it, as for checkpoints of other makers.
    """
    text = evaluation_prompt(tokenizer, template, question, with_image=with_image)
    bos = tokenizer.bos_token
    return [int(token) for token in tokenizer(text, add_special_tokens=not (bos and text.startswith(bos)))["input_ids"]]


def encode_chats(tokenizer: Any, template: str, chats: Sequence[list[dict[str, Any]]]) -> list[EncodedChat]:
    """Render conversations and return their ids and label masks, from the template's generation marks.

    The template writes the start token where the format has one; the tokenizer never adds another.

    Raises
    ------
    ConfigError
        If the template cannot be rendered.
    """
    if not chats:
        return []
    try:
        rendered = render_chats(tokenizer, template, chats)
    except TemplateError as error:
        raise ConfigError(
            f"{tokenizer.name_or_path}: the chat template cannot be rendered ({error}). Does the tokenizer have "
            "an eos_token? Mend it, or use chat_format: shared."
        ) from error
    texts, spans = zip(*rendered, strict=True)
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    greedy = _space_swallowing(tokenizer)
    return [
        _encoded(ids, offsets, answer_spans, text, greedy)
        for ids, offsets, answer_spans, text in zip(
            encoded["input_ids"], encoded["offset_mapping"], spans, texts, strict=True
        )
    ]


def _space_swallowing(tokenizer: Any) -> frozenset[int]:
    """Return the tokens that take the white space behind them with them, as Phi-3's `<|end|>` does its line break."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(index for index, token in added.items() if token.rstrip)


def _encoded(
    ids: list[int], offsets: list[tuple[int, int]], spans: Sequence[tuple[int, int]], text: str, greedy: frozenset[int]
) -> EncodedChat:
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    mask = [False] * len(offsets)
    problem = None
    for low, high in spans:
        first, last = bisect_right(ends, low), bisect_left(starts, high)
        mask[first:last] = [True] * (last - first)
        for place in sorted({first, last - 1}) if last > first else []:
            start, end = offsets[place]
            swallows = ids[place] in greedy and text[high:end].isspace()
            if start < low or (end > high and not swallows):
                problem = f"the token {text[start:end]!r} lies across the edge of the answer {text[low:high]!r}"
    return EncodedChat(ids, mask, problem)

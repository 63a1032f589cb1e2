"""Leak-free packing: the turns of an image share its prefix once, and each sees the prefix and itself only.

With ordinary multi-turn sequences later answers can be read off earlier ones, so a model learns to copy text
instead of looking. Here a packed turn gives the logits of the same turn asked alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.chat_format import EncodedChat, chat_messages, encode_chats
from vlm_backbones.data.conversations import Example
from vlm_backbones.errors import DataError

__all__ = ["PackedExample", "pack_examples"]

IntArray = npt.NDArray[np.int64]

_ENCODED_AT_ONCE = 8192
"""Examples whose tokens exist as Python lists at the same time: lists take ten times an array's memory."""


@dataclass(frozen=True)
class PackedExample:
    """Token ids of one example: the prefix, then its turns one after the other."""

    ids: IntArray  # (tokens,)
    positions: IntArray  # (tokens,), restarting after the prefix at every turn
    lengths: tuple[int, ...]
    """Tokens of the prefix (up to and including the image), then of each turn; they sum to `tokens`."""
    predict_at: IntArray  # (supervised,), where each supervised token is predicted from
    targets: IntArray  # (supervised,)
    answer_sizes: IntArray  # (supervised,), supervised tokens of the same turn
    has_image: bool
    cut_turns: tuple[int, ...]
    """Which turns (of a chain: 0 for the whole) were cut at the longest length."""

    @property
    def truncated(self) -> int:
        """How many were cut."""
        return len(self.cut_turns)


def pack_examples(
    examples: Sequence[Example],
    tokenizer: Any,
    template: str,
    *,
    image_token_id: int,
    image_tokens: int,
    max_length_tokens: int,
    bad: BadRows | None = None,
) -> list[PackedExample]:
    """Tokenise and pack all examples.

    Parameters
    ----------
    image_tokens
        Tokens that one image takes after it is expanded.
    max_length_tokens
        Longest prefix + turn; longer ones lose the end of their answer and are counted.
    bad
        Gathers the rows that cannot be packed, for a caller who has more to check; they are left out.

    Raises
    ------
    DataError
        If a question alone is longer than `max_length_tokens`, an image's place is not in the rendered text, or a
        token lies across the edge of an answer.
    """
    rows = BadRows() if bad is None else bad
    packer = _Packer(image_token_id, image_tokens, max_length_tokens)
    packed: list[PackedExample] = []
    for start in range(0, len(examples), _ENCODED_AT_ONCE):
        chunk = examples[start : start + _ENCODED_AT_ONCE]
        groups = [_chats(example) for example in chunk]
        encoded = iter(_encode_each_once(tokenizer, template, [chat for group in groups for chat in group]))
        for example, group in zip(chunk, groups, strict=True):
            chats = [next(encoded) for _ in group]
            with rows.gather():
                packed.append(packer.pack(example, chats))
    if bad is None:
        rows.refuse()
    return packed


def _chats(example: Example) -> list[list[dict[str, Any]]]:
    """Return the conversations of an example: one a turn where the turns are independent, else one."""
    pairs = [(turn.question, turn.answer) for turn in example.turns]
    groups = [[pair] for pair in pairs] if example.independent else [pairs]
    return [chat_messages(group, with_image=example.image is not None) for group in groups]


def _encode_each_once(tokenizer: Any, template: str, chats: list[list[dict[str, Any]]]) -> list[EncodedChat]:
    """Encode equal conversations once: short questions repeat thousands of times over the images."""
    keys = [repr(chat) for chat in chats]
    unique = dict(zip(keys, chats, strict=True))
    encoded = dict(zip(unique, encode_chats(tokenizer, template, list(unique.values())), strict=True))
    return [encoded[key] for key in keys]


@dataclass(frozen=True)
class _Packer:
    image_token_id: int
    image_tokens: int
    max_length_tokens: int

    def pack(self, example: Example, chats: Sequence[EncodedChat]) -> PackedExample:
        """Join the chats of one example behind their common prefix."""
        prefix = self._prefix(example, chats[0])
        cut = len(prefix) - self.image_tokens + 1 if example.image else 0
        ids, positions, lengths = list(prefix), list(range(len(prefix))), [len(prefix)]
        predict_at: list[int] = []
        targets: list[int] = []
        sizes: list[int] = []
        cut_turns: list[int] = []
        for number, chat in enumerate(chats):
            if chat.problem is not None:
                raise DataError(f"{example.turns[number].place}: {chat.problem}. Trim the answer or drop the row.")
            if self._prefix(example, chat) != prefix:
                raise DataError(f"{example.turns[number].place}: the chat format's text before the image varies.")
            room = self.max_length_tokens - len(prefix)
            turn, mask = chat.ids[cut : cut + room], chat.supervised[cut : cut + room]
            if not any(mask):
                needed = len(prefix) + chat.supervised.index(True) - cut
                raise DataError(
                    f"{example.turns[number].place}: the question takes {needed} tokens and leaves no room for its "
                    f"answer in {self.max_length_tokens}. Shorten it."
                )
            cut_turns += [number] if len(chat.ids) - cut > room else []
            answer = [index for index, supervised in enumerate(mask) if supervised]
            predict_at += [len(ids) + index - 1 if index else len(prefix) - 1 for index in answer]
            targets += [turn[index] for index in answer]
            sizes += [len(answer)] * len(answer)
            positions += range(len(prefix), len(prefix) + len(turn))
            lengths.append(len(turn))
            ids += turn
        return PackedExample(
            ids=np.asarray(ids, dtype=np.int64),
            positions=np.asarray(positions, dtype=np.int64),
            lengths=tuple(lengths),
            predict_at=np.asarray(predict_at, dtype=np.int64),
            targets=np.asarray(targets, dtype=np.int64),
            answer_sizes=np.asarray(sizes, dtype=np.int64),
            has_image=example.image is not None,
            cut_turns=tuple(cut_turns),
        )

    def _prefix(self, example: Example, chat: EncodedChat) -> list[int]:
        """Return the ids up to the image, with the image expanded; empty for an example without image."""
        found = chat.ids.count(self.image_token_id)
        if found != (1 if example.image else 0):
            raise DataError(f"{example.turns[0].place}: the chat format renders {found} image tokens for one example.")
        if not found:
            return []
        return chat.ids[: chat.ids.index(self.image_token_id)] + [self.image_token_id] * self.image_tokens

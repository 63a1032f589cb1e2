"""Is the text that a backbone is taught, and asked, the rows' own? Labels, what is left of those cut, questions."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.chat_format import chat_messages, encode_chats, special_token_ids
from vlm_backbones.data.conversations import Example
from vlm_backbones.data.packing import PackedExample
from vlm_backbones.errors import DataError

__all__ = ["LostText", "around_difference", "check_labels", "kept_of_cut", "lost_text", "special_words"]

_BATCH = 4096
_SHOWN = 40


class Changed(NamedTuple):
    """A text, and what a tokenizer leaves of it."""

    before: str
    after: str


class LostText(NamedTuple):
    """What a tokenizer changes of the text of some rows."""

    rows: int
    changed: Mapping[str, tuple[Changed, ...]]
    """By file and row; the rows whose text it keeps are left out."""


def check_labels(
    name: str, tokenizer: Any, template: str, examples: Sequence[Example], packed: Sequence[PackedExample], bad: BadRows
) -> str | None:
    """Decode the supervised tokens of every answer and compare them with its text; `bad` gathers what differs.

    Returns
    -------
    Why an answer is taught with more, or less, than one end of turn; None where none is.
    """
    wanted: dict[tuple[str, tuple[int, ...]], tuple[str, int]] = {}  # (answer, ids): (place, answers)
    for example, row in zip(examples, packed, strict=True):
        if row.truncated:
            continue  # the cut answers cannot match; they are counted
        if not example.independent:
            text = "".join(turn.answer for turn in example.turns)
            found = (example.turns[0].place, len(example.turns))
            wanted.setdefault((text, tuple(row.targets.tolist())), found)
            continue
        start = 0
        for turn in example.turns:
            size = int(row.answer_sizes[start])
            ids = tuple(row.targets[start : start + size].tolist())
            wanted.setdefault((turn.answer, ids), (turn.place, 1))
            start += size
    _compare_texts(name, tokenizer, {key: place for key, (place, _) in wanted.items()}, bad)
    return _wrong_end(name, tokenizer, template, wanted)


def _compare_texts(name: str, tokenizer: Any, wanted: Mapping[tuple[str, tuple[int, ...]], str], bad: BadRows) -> None:
    texts = _decoded(tokenizer, [list(ids) for _, ids in wanted])
    for ((answer, _), place), text in zip(wanted.items(), texts, strict=True):
        with bad.gather():
            if "".join(text.split()) != "".join(answer.split()):
                raise DataError(
                    f"{place}: the labels of {name} decode to {_short(text)}, the answer is "
                    f"{_short(answer)}. Either the chat format does not mark answers rightly for this tokenizer, or "
                    "the answer holds text that it reads as a special token: drop the row."
                )


def _decoded(tokenizer: Any, ids: Sequence[Sequence[int]]) -> list[str]:
    """Return texts without special tokens; a tokenizer decodes no empty list."""
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return list(tokenizer.batch_decode(ids, **options)) if ids else []


def _wrong_end(
    name: str, tokenizer: Any, template: str, wanted: Mapping[tuple[str, tuple[int, ...]], tuple[str, int]]
) -> str | None:
    """Compare each answer's special tokens with the one end of turn, or none, that the chat format writes."""
    special = special_token_ids(tokenizer)
    (chat,) = encode_chats(tokenizer, template, [chat_messages([("Why?", "So.")], with_image=False)])
    usual = [token for token, taught in zip(chat.ids, chat.supervised, strict=True) if taught and token in special]
    for (_, ids), (place, answers) in wanted.items():
        ends = [token for token in ids if token in special]
        if len(usual) > 1 or ends != usual * answers:
            said = f"{str(tokenizer.decode(ends))!r} behind {answers} answer{'s'[: answers - 1]}"
            return (
                f"{place}: {name} is taught {said}. The chat template must mark an answer and one end of turn, for "
                "every row alike. Mend it, or use chat_format: shared."
            )
    return None


def kept_of_cut(tokenizer: Any, packed: Sequence[PackedExample]) -> str:
    """Return a hash over which examples are cut, and what text of their answers is left.

    Two tokenizers that cut the same rows leave more of an answer to one backbone than to the other.
    """
    special = special_token_ids(tokenizer)
    cut = [(index, row.targets.tolist()) for index, row in enumerate(packed) if row.truncated]
    texts = _decoded(tokenizer, [ids for _, ids in cut])
    kept = [
        (index, "".join(text.split()), sum(token in special for token in ids))
        for (index, ids), text in zip(cut, texts, strict=True)
    ]
    return hashlib.sha256(repr(kept).encode("utf-8", "backslashreplace")).hexdigest()


def special_words(tokenizer: Any, texts: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Return, by the place of a text, the words in it that a tokenizer reads as special tokens."""
    known = [str(tokenizer.convert_ids_to_tokens(token)) for token in sorted(special_token_ids(tokenizer))]
    found: dict[str, frozenset[str]] = {}
    for place, text in texts:
        words = frozenset(word for word in known if word in text)
        if words:
            found[place] = found.get(place, frozenset()) | words
    return found


def lost_text(tokenizer: Any, texts: Iterable[tuple[str, str]]) -> LostText:
    """Return which texts, given with their places, are others after a tokenizer: letters, digits or bytes are lost.

    White space counts as one space, and a letter with its accent as the same one written in two; texts in which the
    tokenizer reads special tokens are left to `special_words`.
    """
    places: dict[str, list[str]] = {}
    for place, text in texts:
        places.setdefault(text, []).append(place)
    special = special_words(tokenizer, ((text, text) for text in places))
    plain = [text for text in places if text not in special]
    found: dict[str, tuple[Changed, ...]] = {}
    for start in range(0, len(plain), _BATCH):
        batch = plain[start : start + _BATCH]
        ids = tokenizer(batch, add_special_tokens=False)["input_ids"]
        read = tokenizer.batch_decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for before, after in zip(batch, read, strict=True):
            changed = Changed(_spaced(before), _spaced(after))
            for place in places[before] if changed.before != changed.after else ():
                found[place] = (*found.get(place, ()), changed)
    return LostText(len({place for same in places.values() for place in same}), found)


def around_difference(*texts: str) -> list[str]:
    """Return texts in quotes, of long ones what lies around the first letter in which they differ."""
    differ = (place for place, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1)
    start = max(0, next(differ, min(map(len, texts))) - _SHOWN // 2) if max(map(len, texts)) > 2 * _SHOWN else 0
    return [repr(text[start : start + 2 * _SHOWN]) for text in texts]


def _spaced(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _short(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:60]} ... {text[-60:]}")

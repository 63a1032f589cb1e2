"""One row of conversations, in LLaVA's or ShareGPT's words or as messages, to an example."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_backbones.data._pictures import resolve_picture
from vlm_backbones.data.conversations import IMAGE_TOKEN, Example, ImageSource, Turn
from vlm_backbones.errors import DataError

__all__ = ["RENAMED", "SKIPPED", "build_example", "picture_of"]

RENAMED = "pictures found under another ending"
SKIPPED = "messages before the first question left out"

_SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bard": "assistant", "bing": "assistant", "system": "system",
}  # fmt: skip


def build_example(row: Any, index: int, place: str, root: Path) -> Example:
    """Return the example of a row: its turns a chain, its picture found under `root`.

    A row holds `conversations` (LLaVA, ShareGPT: from, value) or `messages` (role, content), and `image`, `images`
    with one picture, or none. What stands before the first question is left out, as LLaVA's own code does.

    Raises
    ------
    DataError
        Naming `place`, where the row is malformed or its picture cannot be found.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{place} is malformed: expected an object with 'conversations' or 'messages'.")
    said = _messages(row, place)
    first = next((number for number, (speaker, _) in enumerate(said) if speaker == "user"), len(said))
    texts = [
        _checked(speaker, text, place, "assistant" if number % 2 else "user")
        for number, (speaker, text) in enumerate(said[first:])
    ]
    if not texts or len(texts) % 2:
        raise DataError(
            f"{place} is malformed: expected 'conversations' with a question and an answer a turn, found "
            f"{len(texts)} messages from the first question on."
        )
    image = picture_of(row, place, root)
    if image is not None:
        # the image's token stands anywhere in the first question; our chat formats put it in front
        texts[0] = texts[0].replace(IMAGE_TOKEN, "", 1).strip()
    # the chat formats put the spaces around an answer; a token over its edge would spoil the labels
    turns = tuple(
        Turn(question, answer.strip(), place) for question, answer in zip(texts[::2], texts[1::2], strict=True)
    )
    notes = [RENAMED] if image is not None and image.renamed else []
    notes += [SKIPPED] if first else []
    return Example(str(row.get("id", index)), image, turns, independent=False, notes=tuple(notes))


def _messages(row: Mapping[str, Any], place: str) -> list[tuple[str, str]]:
    messages = row.get("conversations") if row.get("conversations") is not None else row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{place} is malformed: expected 'conversations' or 'messages', a list of messages.")
    said = []
    for message in messages:
        if not isinstance(message, Mapping):
            raise DataError(f"{place} is malformed: expected a message {{from, value}} or {{role, content}}.")
        speaker, text = message.get("from", message.get("role")), message.get("value", message.get("content"))
        if str(speaker) not in _SPEAKERS:
            raise DataError(f"{place} is malformed: expected a message from human or gpt, found {speaker!r}.")
        said.append((_SPEAKERS[str(speaker)], _text(text, place)))
    return said


def _text(content: Any, place: str) -> str:
    """Return a message's text; of a list of parts the texts, an image as its token."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        kinds = {str(part.get("type")) for part in content}
        if kinds <= {"text", "image"}:
            return "".join(IMAGE_TOKEN + "\n" if part["type"] == "image" else str(part.get("text")) for part in content)
    raise DataError(f"{place} is malformed: expected a message's text, found {str(content)[:80]!r}.")


def _checked(speaker: str, text: str, place: str, expected: str) -> str:
    if speaker != expected:
        raise DataError(f"{place} is malformed: expected a message of the {expected}, found one of the {speaker}.")
    return text


def picture_of(row: Mapping[str, Any], place: str, root: Path) -> ImageSource | None:
    """Return a row's picture: a file's name, bytes, or a list of one of these; None where it has none.

    Raises
    ------
    DataError
        If there are several, or it cannot be found.
    """
    cell = row.get("image") if row.get("image") is not None else row.get("images")
    if isinstance(cell, list):
        if len(cell) > 1:
            raise DataError(f"{place}: {len(cell)} images, expected one at most. Drop the row.")
        cell = cell[0] if cell else None
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes) and cell:
        return ImageSource(place, data=cell)
    if hasattr(cell, "as_buffer"):
        return ImageSource(place, cell=cell)
    if cell is None or cell == "":
        return None
    if not isinstance(cell, str):
        raise DataError(f"{place}: image is {str(cell)[:80]!r}, expected a file's name or its bytes.")
    path, renamed = resolve_picture(root, cell, place)
    return ImageSource(place, path=path, renamed=renamed)

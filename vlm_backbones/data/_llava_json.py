"""LLaVA Instruct JSON: a list of {id, image, conversations: [{from: human or gpt, value}]}."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.conversations import IMAGE_TOKEN, Example, ImageSource, Turn
from vlm_backbones.errors import DataError


def read_json(path: Path, bad: BadRows) -> list[Example]:
    """Return one example a good row, its turns a chain; `bad` gathers the others."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(rows, list):
        raise DataError(f"{path} holds no list: expected rows with 'conversations', found {rows!r:.80}.")
    if not rows:
        raise DataError(f"{path} is empty: expected a list of rows with 'conversations'.")
    examples = []
    for index, row in enumerate(rows):
        with bad.gather():
            examples.append(_example(path, index, row))
    return examples


def _example(path: Path, index: int, row: Any) -> Example:
    place = f"{path} row {index}"
    messages = row.get("conversations") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages or len(messages) % 2:
        raise DataError(f"{place} is malformed: expected 'conversations' with a question and an answer a turn.")
    texts = [_text(message, place, "human" if number % 2 == 0 else "gpt") for number, message in enumerate(messages)]
    # the image's token stands anywhere in the first question; our chat formats put it in front
    if row.get("image"):
        texts[0] = texts[0].replace(IMAGE_TOKEN, "", 1).strip()
    turns = tuple(Turn(question, answer, place) for question, answer in zip(texts[::2], texts[1::2], strict=True))
    image = _image(path, str(row["image"]), place) if row.get("image") else None
    return Example(str(row.get("id", index)), image, turns, independent=False)


def _text(message: Any, place: str, speaker: str) -> str:
    if not isinstance(message, dict) or message.get("from") != speaker or not isinstance(message.get("value"), str):
        raise DataError(
            f"{place} is malformed: expected a message {{from: {speaker}, value: text}}, found {message!r}."
        )
    return str(message["value"])


def _image(path: Path, name: str, place: str) -> ImageSource:
    root = path.parent.resolve()
    try:
        file = (root / name).resolve()
    except ValueError as error:
        raise DataError(f"{place}: image {name!r} is no file name ({error}).") from error
    if not file.is_relative_to(root):
        raise DataError(f"{place}: image {name!r} lies outside {root}.")
    if not file.is_file():
        raise DataError(f"{place}: image {file} does not exist.")
    return ImageSource(place, path=file)

"""Is a backbone asked in evaluation as it was taught in training? The chat format seen from both sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vlm_backbones.data.chat_format import (
    chat_messages,
    encode_chats,
    evaluation_prompt,
    evaluation_prompt_ids,
    get_chat_template,
)
from vlm_backbones.data.evaluation_data import Asked
from vlm_backbones.recipe import StageRecipe

__all__ = ["prompt_problems", "room_problems"]

_QUESTION, _ANSWER = "What is shown?", "A star."
_TRIED = 512
"""Questions of the study that are tried, evenly spread over those that differ: a bound on time."""


def prompt_problems(
    name: str, tokenizer: Any, template: str, last: StageRecipe, questions: Sequence[Asked]
) -> Iterator[str]:
    """Yield why evaluation would ask in another prompt than the last stage trains with, or some questions otherwise.

    Parameters
    ----------
    template
        The study's chat format, which the checkpoint keeps and evaluation uses.
    last
        The last stage, which may name a format of its own.
    questions
        Of training and tests: a template may treat some of them in its own way.
    """
    taught = template if last.chat_format is None else get_chat_template(last.chat_format, tokenizer)
    fixed, tried = [Asked("", _QUESTION, with_image) for with_image in (True, False)], _spread(questions)
    for row in [*fixed, *tried]:
        trained, asked = _trained_prompt(tokenizer, taught, row), _asked_prompt(tokenizer, template, row)
        if trained != asked:
            of_row = f"{row.place}: " if row.place else ""
            yield (
                f"{of_row}{name} is trained with the prompt {_text(tokenizer, trained)} and evaluated with "
                f"{_text(tokenizer, asked)}: {_remedy(last)}"
            )
            return
    frames = {row.with_image: _asked_text(tokenizer, template, row) for row in fixed}
    for row in tried:
        asked_as, frame = _asked_text(tokenizer, template, row), frames[row.with_image]
        if _dense(asked_as) != _dense(frame).replace(_dense(_QUESTION), _dense(row.question)):
            yield (
                f"{row.place}: {name} is asked {asked_as!r}, other questions as {frame!r}: the chat template must "
                "write the same around every question. Mend it, or use chat_format: shared."
            )
            return


def room_problems(
    name: str, tokenizer: Any, template: str, context_tokens: int, image_tokens: int, questions: Sequence[Asked]
) -> Iterator[str]:
    """Yield which question leaves a backbone no room for its answer: it would be cut here and not elsewhere.

    Parameters
    ----------
    context_tokens
        What the backbone takes, prompt and answer together.
    questions
        Of tests. The longest come first, up to where even a token a byte would fit.
    """
    for row in sorted(questions, key=_most_tokens, reverse=True):
        text = _asked_text(tokenizer, template, row)
        if len(text.encode(errors="replace")) + image_tokens + row.answer_tokens <= context_tokens:
            return
        asked = len(_asked_prompt(tokenizer, template, row)) + (image_tokens - 1 if row.with_image else 0)
        if asked + row.answer_tokens > context_tokens:
            yield (
                f"{row.place}: a prompt of {asked} tokens and an answer of up to {row.answer_tokens} do not fit the "
                f"context of {name} ({context_tokens} tokens): answers would be cut or refused. Shorten the question, "
                "or take a vision tower of fewer image tokens or a backbone of a longer context."
            )
            return


def _most_tokens(row: Asked) -> int:
    return len(row.question.encode(errors="replace")) + row.answer_tokens


def _spread(questions: Sequence[Asked]) -> list[Asked]:
    """Return some of the questions that differ, the first and the last among them."""
    found = list({(row.question, row.with_image): row for row in reversed(questions)}.values())[::-1]
    places = {round(number * (len(found) - 1) / (_TRIED - 1)) for number in range(_TRIED)} if found else set[int]()
    return [found[place] for place in sorted(places)]


def _dense(text: str) -> str:
    """Return a text without white space, which templates trim around a question."""
    return "".join(text.split())


def _remedy(last: StageRecipe) -> str:
    if last.chat_format is not None:
        return (
            f"the last stage's chat_format is {last.chat_format!r}, and the checkpoint keeps the study's. "
            "Name that format as the study's chat_format, and leave it out of the recipe."
        )
    return (
        "the chat template must write the same before an answer as it does with add_generation_prompt, start token "
        "included. Mend it, or use chat_format: shared."
    )


def _trained_prompt(tokenizer: Any, template: str, row: Asked) -> list[int]:
    (chat,) = encode_chats(tokenizer, template, [chat_messages([(row.question, _ANSWER)], with_image=row.with_image)])
    return chat.ids[: chat.supervised.index(True)] if True in chat.supervised else chat.ids


def _asked_text(tokenizer: Any, template: str, row: Asked) -> str:
    return evaluation_prompt(tokenizer, template, row.question, with_image=row.with_image)


def _asked_prompt(tokenizer: Any, template: str, row: Asked) -> list[int]:
    return evaluation_prompt_ids(tokenizer, template, row.question, with_image=row.with_image)


def _text(tokenizer: Any, ids: list[int]) -> str:
    return repr(str(tokenizer.decode(ids, skip_special_tokens=False)))

"""Is a backbone asked in evaluation as it was taught in training? The chat format seen from both sides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlm_backbones.data.chat_format import chat_messages, encode_chats, evaluation_prompt_ids, get_chat_template
from vlm_backbones.recipe import StageRecipe

__all__ = ["prompt_problems"]

_QUESTION, _ANSWER = "What is shown?", "A star."


def prompt_problems(name: str, tokenizer: Any, template: str, last: StageRecipe) -> Iterator[str]:
    """Yield why evaluation would ask in another prompt than the last stage trains with.

    Parameters
    ----------
    template
        The study's chat format, which the checkpoint keeps and evaluation uses.
    last
        The last stage, which may name a format of its own.
    """
    taught = template if last.chat_format is None else get_chat_template(last.chat_format, tokenizer)
    for with_image in (True, False):
        trained, asked = _trained_prompt(tokenizer, taught, with_image), _asked_prompt(tokenizer, template, with_image)
        if trained != asked:
            yield (
                f"{name} is trained with the prompt {_text(tokenizer, trained)} and evaluated with "
                f"{_text(tokenizer, asked)}: {_remedy(last)}"
            )
            return


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


def _trained_prompt(tokenizer: Any, template: str, with_image: bool) -> list[int]:
    (chat,) = encode_chats(tokenizer, template, [chat_messages([(_QUESTION, _ANSWER)], with_image=with_image)])
    return chat.ids[: chat.supervised.index(True)] if True in chat.supervised else chat.ids


def _asked_prompt(tokenizer: Any, template: str, with_image: bool) -> list[int]:
    return evaluation_prompt_ids(tokenizer, template, _QUESTION, with_image=with_image)


def _text(tokenizer: Any, ids: list[int]) -> str:
    return repr(str(tokenizer.decode(ids, skip_special_tokens=False)))

"""From a question and its images to token ids, in the checkpoint's own chat format."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from vlm_backbones.data.chat_rendering import TemplateError, render_chats
from vlm_backbones.errors import CheckpointError, DataError
from vlm_backbones.model_wrappers._engine import Engine

__all__ = ["Prompter"]

_MARK = "the place of the question"


class Prompter:
    """Renders prompts and answers by the chat template that the checkpoint was trained with."""

    def __init__(self, engine: Engine) -> None:
        # A copy: the answers are decoded in another thread, and a tokenizer serves one at a time.
        self.tokenizer = copy.deepcopy(engine.tokenizer)
        self.end_ids = engine.end_ids
        self.image_token: str = getattr(engine.processor, "image_token", None) or "<image>"
        self.template = getattr(engine.processor, "chat_template", None) or self.tokenizer.chat_template
        if not self.template:
            raise CheckpointError("the checkpoint has no chat template: add chat_template.jinja to its folder.")
        self.answer_ids = lru_cache(maxsize=65_536)(self._answer_ids)

    def prompt(self, context: str, image_count: int) -> str:
        """Return the rendered prompt with one image token an image.

        Raises
        ------
        DataError
            If the text itself holds image tokens that do not match the document's images.
        """
        text = self._render([{"role": "user", "content": self._content(context, image_count)}], prompt=True)
        found = text.count(self.image_token)
        if found != image_count:
            raise CheckpointError(
                f"the chat template renders {found} image tokens for {image_count} images; expected one an image."
            )
        return text

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise whole rendered chats; the tokenizer adds its start token unless the template has written it."""
        found: dict[int, list[int]] = {}
        for adds in (False, True):
            places = [place for place, text in enumerate(texts) if self._adds_special(text) == adds]
            if places:
                encoded = self.tokenizer([texts[place] for place in places], add_special_tokens=adds)["input_ids"]
                found |= dict(zip(places, encoded, strict=True))
        return [found[place] for place in range(len(texts))]

    def question_mask(self, context: str, image_count: int) -> list[bool]:
        """Return which tokens of a prompt hold the question's own words, not the chat format's.

        Raises
        ------
        CheckpointError
            If the chat template changes the words, or the tokenizer cannot say where its tokens stand.
        """
        if not self.tokenizer.is_fast:
            raise CheckpointError("states of question tokens need a fast tokenizer: add tokenizer.json to the folder.")
        text = self._render([{"role": "user", "content": self._content(context, image_count)}], prompt=True)
        marked = self._render([{"role": "user", "content": self._content(_MARK, image_count)}], prompt=True)
        start, spans = marked.find(_MARK), []
        if self.image_token in context:
            start = 0  # the images stand inside the text
        for words in filter(None, (piece.strip() for piece in context.split(self.image_token))):
            start = text.find(words, start)
            if start < 0:
                raise CheckpointError(f"the chat template changes the question {words[:80]!r}; its tokens are unknown.")
            spans.append((start, start + len(words)))
            start += len(words)
        encoded = self.tokenizer(text, add_special_tokens=self._adds_special(text), return_offsets_mapping=True)
        return [any(first < end and begin < last for begin, end in spans) for first, last in encoded["offset_mapping"]]

    def _content(self, context: str, image_count: int) -> list[dict[str, str]]:
        pieces = context.split(self.image_token)
        image = {"type": "image"}
        if len(pieces) == 1:
            return [*[image] * image_count, {"type": "text", "text": context}]
        if len(pieces) - 1 != image_count:
            raise DataError(
                f"the question holds {len(pieces) - 1} times {self.image_token!r} but has {image_count} images: "
                f"{context[:80]!r}. Remove the image token from the text."
            )
        # Placeholders in the text say where each image stands.
        content = []
        for index, piece in enumerate(pieces):
            content += [image] if index else []
            content += [{"type": "text", "text": piece}] if piece else []
        return content

    def _answer_ids(self, answer: str) -> tuple[int, ...]:
        """Return the tokens of an answer with the end of turn, as they follow the generation prompt.

        The answer is tokenised in its place, since a token may reach over the border between prompt and answer.
        """
        user = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        reply = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        prompt, full = self._render([user], prompt=True), self._render([user, reply], prompt=False)
        # llava-hf's templates write a space and no end of turn after an answer; the models were trained without it
        full = full.rstrip() if full.startswith(prompt) else prompt + answer
        before, whole = self.ids([prompt, full])
        ids = whole[len(before) :] if whole[: len(before)] == before else self._bare_ids(full[len(prompt) :])
        ended = next((index for index, token in enumerate(ids) if token in self.end_ids), None)
        if ended is not None:
            return tuple(ids[: ended + 1])
        return (*ids, self.tokenizer.eos_token_id)

    def _render(self, messages: list[dict[str, Any]], *, prompt: bool) -> str:
        try:
            ((text, _),) = render_chats(self.tokenizer, self.template, [messages], add_generation_prompt=prompt)
        except TemplateError as error:
            raise CheckpointError(
                f"{self.tokenizer.name_or_path}: the chat template cannot be rendered ({error}). "
                "Mend chat_template.jinja."
            ) from error
        return text

    def _adds_special(self, text: str) -> bool:
        bos = self.tokenizer.bos_token
        return not (bos and text.startswith(bos))

    def _bare_ids(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False)["input_ids"]]

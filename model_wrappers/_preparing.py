"""Requests made ready for the model on a thread of their own, while it works on earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from PIL.Image import Image

from vlm_backbones.errors import DataError
from vlm_backbones.model_wrappers._prompting import Prompter
from vlm_backbones.model_wrappers._queue import by_image_and_length
from vlm_backbones.model_wrappers._requests import Document, DocumentReader, Job, windows

__all__ = ["Prepared", "Preparer", "images_of"]

WINDOWS_AHEAD = 2


@dataclass(frozen=True)
class Prepared:
    """One request before the model: its document, tokens with one image token an image, and options.

    Attributes
    ----------
    question
        Which prompt tokens are the question's own words; None where no states are kept.
    cost
        Tokens of the prompt and its options in the backbone.
    """

    document: Document
    prompt: Sequence[int]
    image_keys: Sequence[str]
    options: Sequence[str]
    option_ids: Sequence[Sequence[int]]
    question: Sequence[bool] | None
    cost: int


class Preparer:
    """Reads and tokenises requests, window by window."""

    def __init__(
        self,
        reader: DocumentReader,
        prompter: Prompter,
        options: Callable[[Document], Sequence[str]],
        keeps_states: Callable[[Job], bool],
        image_tokens: int,
    ) -> None:
        self.reader = reader
        self.prompter = prompter
        self.options = options
        self.keeps_states = keeps_states
        self.image_tokens = image_tokens

    def windows(self, jobs: Sequence[Job], size: int) -> Iterator[list[Prepared]]:
        """Yield prepared windows, each with the questions about one image together and the longest first."""
        waiting: deque[Future[list[Prepared]]] = deque()
        pool = ThreadPoolExecutor(1, "prepare")
        try:
            for window in windows(jobs, size):
                waiting.append(pool.submit(self._prepare, window))
                if len(waiting) > WINDOWS_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, jobs: Sequence[Job]) -> list[Prepared]:
        documents = [self.reader.read(job) for job in jobs]
        prompts = self.prompter.ids([self._prompt(document) for document in documents])
        rows = [self._prepared(document, prompt) for document, prompt in zip(documents, prompts, strict=True)]
        return by_image_and_length(rows, lambda row: tuple(row.image_keys), lambda row: row.cost)

    def _prepared(self, document: Document, prompt: Sequence[int]) -> Prepared:
        options = self.options(document)
        option_ids = [self.prompter.answer_ids(name.strip()) for name in options]
        return Prepared(
            document=document,
            prompt=prompt,
            image_keys=document.shown_keys,
            options=options,
            option_ids=option_ids,
            question=self._question(document) if self.keeps_states(document.job) else None,
            cost=len(prompt) + (self.image_tokens - 1) * len(document.images) + sum(len(ids) - 1 for ids in option_ids),
        )

    def _question(self, document: Document) -> list[bool]:
        return self.prompter.question_mask(document.context, len(document.images))

    def _prompt(self, document: Document) -> str:
        try:
            return self.prompter.prompt(document.context, len(document.images))
        except DataError as error:
            raise DataError(f"task {document.job.task!r}, row {document.job.doc_id}: {error}") from error


def images_of(rows: Sequence[Prepared]) -> dict[str, Image]:
    """Return key -> image of some requests."""
    return {key: image for row in rows for key, image in zip(row.image_keys, row.document.images, strict=True)}

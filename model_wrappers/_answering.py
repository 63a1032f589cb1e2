"""Batches of requests from documents to records: read and tokenise ahead, then features, options, answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import torch
from PIL.Image import Image

from vlm_backbones.errors import DataError
from vlm_backbones.model_wrappers._engine import Engine
from vlm_backbones.model_wrappers._generation import Generated, Prefix, Prompt, generate, prefill
from vlm_backbones.model_wrappers._options import Options, OptionScore, option_branches, score_options
from vlm_backbones.model_wrappers._prompting import Prompter
from vlm_backbones.model_wrappers._record import Record, image_key
from vlm_backbones.model_wrappers._requests import Document, DocumentReader, Job
from vlm_backbones.model_wrappers._stock_options import options_of
from vlm_backbones.model_wrappers._stops import StopStrings
from vlm_backbones.model_wrappers._vision import ImageEncoder

__all__ = ["Answerer", "Prepared"]

BATCHES_AHEAD = 3


@dataclass(frozen=True)
class Prepared:
    """One request before the model: its document, tokens with one image token an image, and options."""

    document: Document
    prompt: Sequence[int]
    image_keys: Sequence[str]
    options: Sequence[str]
    option_ids: Sequence[Sequence[int]]


class Answerer:
    """Answers batches of requests with one engine, and counts tokens that were nearly tied."""

    def __init__(self, engine: Engine, reader: DocumentReader) -> None:
        self.engine = engine
        self.reader = reader
        self.prompter = Prompter(engine)
        self.encoder = ImageEncoder(engine)
        self.stops = lru_cache(maxsize=64)(lambda until: StopStrings(engine.tokenizer, until))
        self.near_ties = 0

    def ahead(
        self, batches: Iterable[Sequence[Job]], options: Callable[[Document], Sequence[str]] | None = None
    ) -> Iterator[list[Prepared]]:
        """Yield prepared batches; a thread reads and tokenises the next ones while the model works on this one."""
        waiting: deque[Future[list[Prepared]]] = deque()
        pool = ThreadPoolExecutor(1, "prepare")
        try:
            for batch in batches:
                waiting.append(pool.submit(self._prepare, batch, options or _task_options))
                if len(waiting) > BATCHES_AHEAD:
                    yield self._next(waiting)
            while waiting:
                yield self._next(waiting)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _next(self, waiting: deque[Future[list[Prepared]]]) -> list[Prepared]:
        """Return the next batch; encode its images together with those of later batches that are read already."""
        batch = waiting.popleft().result()
        images = _images(batch)
        if self.encoder.lacks(images):
            for future in waiting:
                if future.done() and future.exception() is None and len(images) < len(batch):
                    images |= _images(future.result())
            self.encoder.encode(images)
        return batch

    def _prepare(self, jobs: Sequence[Job], options: Callable[[Document], Sequence[str]]) -> list[Prepared]:
        rows = []
        for job in jobs:
            document = self.reader.read(job)
            names = options(document)
            rows.append(
                Prepared(
                    document=document,
                    prompt=self._prompt(document),
                    image_keys=[image_key([image]) or "" for image in document.images],
                    options=names,
                    option_ids=[self.prompter.answer_ids(name.strip()) for name in names],
                )
            )
        return rows

    def _prompt(self, document: Document) -> list[int]:
        try:
            return self.prompter.prompt_ids(document.context, len(document.images))
        except DataError as error:
            raise DataError(f"task {document.job.task!r}, row {document.job.doc_id}: {error}") from error

    def answer(self, batch: Sequence[Prepared]) -> list[Record]:
        """Generate one greedy answer a request and score the options where the document has some."""
        options = [row.option_ids for row in batch]
        prefix = self._prefill(batch, options)
        scores = score_options(prefix, options)
        lengths = prefix.lengths.tolist()
        limits = [self._limit(row.document.job, length) for row, length in zip(batch, lengths, strict=True)]
        stops = self.stops(batch[0].document.job.until)
        answers = generate(self.engine, prefix, limits, stops.found if stops.until else None, options)
        self.near_ties += sum(answer.near_ties for answer in answers)
        rows = zip(batch, lengths, scores, answers, strict=True)
        return [self._record(row, length, scored, answer, stops) for row, length, scored, answer in rows]

    def score(self, batch: Sequence[Prepared]) -> list[list[OptionScore]]:
        """Score each request's options without the end of turn."""
        options = [[option[:-1] for option in row.option_ids] for row in batch]
        return score_options(self._prefill(batch, options), options)

    def _record(
        self, row: Prepared, length: int, scored: Sequence[OptionScore], answer: Generated, stops: StopStrings
    ) -> Record:
        return Record(
            text=stops.text(answer.token_ids),
            input_tokens=length,
            token_count=answer.token_count,
            logprob=answer.logprob,
            truncated=answer.truncated,
            option_logprobs={name: option.logprob for name, option in zip(row.options, scored, strict=True)} or None,
            doc_key=row.document.doc_key,
            image_key=row.document.image_key,
            checkpoint=self.engine.fingerprint,
            condition=row.document.condition,
        )

    def _prefill(self, batch: Sequence[Prepared], options: Options) -> Prefix:
        features = self.encoder.encode(_images(batch))
        prompts = [
            Prompt(self._expanded(row, [features[key] for key in row.image_keys]), row.image_keys) for row in batch
        ]
        branches = option_branches(options, self.engine.device)
        return prefill(self.engine, prompts, features, self.prompter.image_token_id, branches)

    def _expanded(self, row: Prepared, features: Sequence[torch.Tensor]) -> list[int]:
        """Return a prompt with as many image tokens as its images have features; refuse one too long."""
        counts = iter([len(feature) for feature in features])
        image = self.prompter.image_token_id
        prompt: list[int] = []
        for token in row.prompt:
            prompt += [image] * next(counts) if token == image else [token]
        longest = self.engine.max_tokens
        needed = len(prompt) + max([1, *(len(option) for option in row.option_ids)])
        if longest is not None and needed > longest:
            job = row.document.job
            raise DataError(
                f"task {job.task!r}, row {job.doc_id}: prompt and answer need {needed} tokens or more, the backbone "
                f"takes {longest}. Shorten the question."
            )
        return prompt

    def _limit(self, job: Job, prompt_length: int) -> int:
        longest = self.engine.max_tokens
        return job.new_tokens if longest is None else min(job.new_tokens, longest - prompt_length)


def _images(batch: Sequence[Prepared]) -> dict[str, Image]:
    return {key: image for row in batch for key, image in zip(row.image_keys, row.document.images, strict=True)}


def _task_options(document: Document) -> list[str]:
    return options_of(document.job.task, document.row, document.job.setting("score_options"))

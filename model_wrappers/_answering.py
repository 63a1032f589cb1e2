"""Batches of requests from documents to records: read and tokenise ahead, then features, options, answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL.Image import Image

from vlm_backbones.errors import DataError
from vlm_backbones.model_wrappers._engine import Engine
from vlm_backbones.model_wrappers._generation import Generated, Prefix, Prompt, generate, prefill
from vlm_backbones.model_wrappers._options import Options, OptionScore, option_branches, score_options
from vlm_backbones.model_wrappers._prompting import Prompter
from vlm_backbones.model_wrappers._record import Record
from vlm_backbones.model_wrappers._requests import Document, DocumentReader, Job
from vlm_backbones.model_wrappers._state_recorder import StateRecorder, Told
from vlm_backbones.model_wrappers._stock_options import options_of
from vlm_backbones.model_wrappers._stops import StopStrings
from vlm_backbones.model_wrappers._vision import ImageEncoder

__all__ = ["Answerer", "Prepared"]

BATCHES_AHEAD = 3

Features = Mapping[str, torch.Tensor]  # image key -> (image_tokens, hidden)


@dataclass(frozen=True)
class Prepared:
    """One request before the model: its document, tokens with one image token an image, and options."""

    document: Document
    prompt: Sequence[int]
    image_keys: Sequence[str]
    options: Sequence[str]
    option_ids: Sequence[Sequence[int]]
    question: Sequence[bool] | None = None
    """Which prompt tokens are the question's own words; None where no states are kept."""


class Answerer:
    """Answers batches of requests with one engine, and counts tokens that were nearly tied."""

    def __init__(self, engine: Engine, reader: DocumentReader, recorder: StateRecorder | None = None) -> None:
        self.engine = engine
        self.reader = reader
        self.recorder = recorder
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
                    image_keys=document.shown_keys,
                    options=names,
                    option_ids=[self.prompter.answer_ids(name.strip()) for name in names],
                    question=self._question(document),
                )
            )
        return rows

    def _question(self, document: Document) -> list[bool] | None:
        if self.recorder is None or not self.recorder.wants(document.job):
            return None
        return self.prompter.question_mask(document.context, len(document.images))

    def _prompt(self, document: Document) -> list[int]:
        try:
            return self.prompter.prompt_ids(document.context, len(document.images))
        except DataError as error:
            raise DataError(f"task {document.job.task!r}, row {document.job.doc_id}: {error}") from error

    def answer(self, batch: Sequence[Prepared]) -> list[Record]:
        """Generate one greedy answer a request and score the options where the document has some."""
        options = [row.option_ids for row in batch]
        features = self.encoder.encode(_images(batch))
        prompts = self._prompts(batch, features)
        prefix = self._prefill(prompts, features, options)
        scores = score_options(prefix, options)
        lengths = prefix.lengths.tolist()
        limits = [self._limit(row.document.job, length) for row, length in zip(batch, lengths, strict=True)]
        stops = self.stops(batch[0].document.job.until)
        answers = generate(self.engine, prefix, limits, stops.found if stops.until else None, options)
        self.near_ties += sum(answer.near_ties for answer in answers)
        if self.recorder is not None:
            self.recorder.record(self._told(batch, prompts, features, answers), features)
        rows = zip(batch, lengths, scores, answers, strict=True)
        return [self._record(row, length, scored, answer, stops) for row, length, scored, answer in rows]

    def score(self, batch: Sequence[Prepared]) -> list[list[OptionScore]]:
        """Score each request's options without the end of turn."""
        options = [[option[:-1] for option in row.option_ids] for row in batch]
        features = self.encoder.encode(_images(batch))
        return score_options(self._prefill(self._prompts(batch, features), features, options), options)

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

    def _told(
        self, batch: Sequence[Prepared], prompts: Sequence[Prompt], features: Features, answers: Sequence[Generated]
    ) -> list[Told]:
        """Return the documents whose states are kept, with their answers."""
        return [
            Told(
                job=row.document.job,
                doc_key=row.document.doc_key,
                prompt=prompt.token_ids,
                question=np.repeat(row.question, self._repeats(row, features)).tolist(),
                answer=answer.token_ids,
                image_keys=row.image_keys,
            )
            for row, prompt, answer in zip(batch, prompts, answers, strict=True)
            if row.question is not None
        ]

    def _prefill(self, prompts: Sequence[Prompt], features: Features, options: Options) -> Prefix:
        branches = option_branches(options, self.engine.device)
        return prefill(self.engine, prompts, features, self.prompter.image_token_id, branches)

    def _prompts(self, batch: Sequence[Prepared], features: Features) -> list[Prompt]:
        """Return the prompts with as many image tokens as their images have features; refuse one too long."""
        expanded = [np.repeat(row.prompt, self._repeats(row, features)).tolist() for row in batch]
        longest = self.engine.max_tokens
        for row, prompt in zip(batch, expanded, strict=True):
            needed = len(prompt) + max([1, *(len(option) for option in row.option_ids)])
            if longest is not None and needed > longest:
                job = row.document.job
                raise DataError(
                    f"task {job.task!r}, row {job.doc_id}: prompt and answer need {needed} tokens or more, the "
                    f"backbone takes {longest}. Shorten the question."
                )
        return [Prompt(ids, row.image_keys) for row, ids in zip(batch, expanded, strict=True)]

    def _repeats(self, row: Prepared, features: Features) -> list[int]:
        """Return how often each prompt token stands in the backbone's input: an image token, once a feature."""
        counts = iter([len(features[key]) for key in row.image_keys])
        return [next(counts) if token == self.prompter.image_token_id else 1 for token in row.prompt]

    def _limit(self, job: Job, prompt_length: int) -> int:
        longest = self.engine.max_tokens
        return job.new_tokens if longest is None else min(job.new_tokens, longest - prompt_length)


def _images(batch: Sequence[Prepared]) -> dict[str, Image]:
    return {key: image for row in batch for key, image in zip(row.image_keys, row.document.images, strict=True)}


def _task_options(document: Document) -> list[str]:
    return options_of(document.job.task, document.row, document.job.setting("score_options"))

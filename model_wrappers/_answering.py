"""One batch of requests from documents to records: prompts, features, options, answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import torch

from vlm_backbones.errors import DataError
from vlm_backbones.model_wrappers._engine import Engine
from vlm_backbones.model_wrappers._generation import Prefix, generate, prefill
from vlm_backbones.model_wrappers._options import OptionScore, score_options
from vlm_backbones.model_wrappers._prompting import Prompter
from vlm_backbones.model_wrappers._record import Record, image_key
from vlm_backbones.model_wrappers._requests import Document, DocumentReader, Job
from vlm_backbones.model_wrappers._stock_options import options_of
from vlm_backbones.model_wrappers._stops import StopStrings
from vlm_backbones.model_wrappers._vision import ImageEncoder

__all__ = ["Answerer"]


class Answerer:
    """Answers batches of requests with one engine, and counts tokens that were nearly tied."""

    def __init__(self, engine: Engine, reader: DocumentReader) -> None:
        self.engine = engine
        self.reader = reader
        self.prompter = Prompter(engine)
        self.encoder = ImageEncoder(engine)
        self.stops = lru_cache(maxsize=64)(lambda until: StopStrings(engine.tokenizer, until))
        self.near_ties = 0

    def answer(self, jobs: Sequence[Job]) -> list[Record]:
        """Generate one greedy answer a request and score the options where the document has some."""
        documents = [self.reader.read(job) for job in jobs]
        names = [options_of(job.task, document.row, job.setting("score_options")) for job, document in zip(jobs, documents, strict=True)]
        prefix = self._prefill(documents)
        scores = self._score(prefix, names, end=True)
        stops = self.stops(jobs[0].until)
        lengths = prefix.lengths.tolist()
        limits = [self._limit(job, length) for job, length in zip(jobs, lengths, strict=True)]
        generated = generate(self.engine, prefix, limits, stops.found if stops.until else None)
        records = []
        for document, length, options, scored, answer in zip(documents, lengths, names, scores, generated, strict=True):
            self.near_ties += answer.near_ties
            records.append(
                Record(
                    text=stops.text(answer.token_ids),
                    input_tokens=length,
                    token_count=answer.token_count,
                    logprob=answer.logprob,
                    truncated=answer.truncated,
                    option_logprobs={name: s.logprob for name, s in zip(options, scored, strict=True)} or None,
                    doc_key=document.doc_key,
                    image_key=document.image_key,
                    checkpoint=self.engine.fingerprint,
                    condition=document.condition,
                )
            )
        return records

    def score(self, jobs: Sequence[Job], answers: Sequence[Sequence[str]], *, end: bool) -> list[list[OptionScore]]:
        """Score given answers a request, with or without the end of turn."""
        prefix = self._prefill([self.reader.read(job) for job in jobs])
        return self._score(prefix, answers, end=end)

    def _prefill(self, documents: Sequence[Document]) -> Prefix:
        keys = [[image_key([image]) or "" for image in document.images] for document in documents]
        images = {
            key: image
            for row, document in zip(keys, documents, strict=True)
            for key, image in zip(row, document.images, strict=True)
        }
        features = self.encoder.encode(images)
        prompts = [
            self._prompt(document, [features[key] for key in row]) for row, document in zip(keys, documents, strict=True)
        ]
        ordered = [features[key] for key in chain.from_iterable(keys)]
        return prefill(self.engine, prompts, ordered, self.prompter.image_token_id)

    def _prompt(self, document: Document, features: Sequence[torch.Tensor]) -> list[int]:
        """Return a document's tokens with as many image tokens as its images have features."""
        counts = iter([len(feature) for feature in features])
        image = self.prompter.image_token_id
        prompt: list[int] = []
        for token in self.prompter.prompt_ids(document.context, len(features)):
            prompt += [image] * next(counts) if token == image else [token]
        longest = self.engine.max_tokens
        if longest is not None and len(prompt) >= longest:
            job = document.job
            raise DataError(
                f"task {job.task!r}, row {job.doc_id}: the prompt has {len(prompt)} tokens, the backbone takes "
                f"{longest} with the answer. Shorten the question."
            )
        return prompt

    def _limit(self, job: Job, prompt_length: int) -> int:
        longest = self.engine.max_tokens
        return job.new_tokens if longest is None else min(job.new_tokens, longest - prompt_length)

    def _score(self, prefix: Prefix, answers: Sequence[Sequence[str]], *, end: bool) -> list[list[OptionScore]]:
        if not any(answers):
            return [[] for _ in answers]
        ids = [[self.prompter.answer_ids(answer.strip()) for answer in row] for row in answers]
        return score_options(self.engine, prefix, [[option if end else option[:-1] for option in row] for row in ids])

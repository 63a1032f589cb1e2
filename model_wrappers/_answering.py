"""From prepared requests to records: what is ready joins what is being written, as memory has room."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeVar

import torch

from vlm_backbones.errors import CheckpointError, DataError
from vlm_backbones.model_wrappers._engine import Engine
from vlm_backbones.model_wrappers._flight import Flight, Writing
from vlm_backbones.model_wrappers._greedy import Rules, choose, follow_drafts
from vlm_backbones.model_wrappers._options import OptionScore, option_branches, score_options
from vlm_backbones.model_wrappers._prefill import Prefix, Prompt, prefill
from vlm_backbones.model_wrappers._preparing import Prepared, images_of
from vlm_backbones.model_wrappers._queue import Queue
from vlm_backbones.model_wrappers._record import Record
from vlm_backbones.model_wrappers._requests import Job
from vlm_backbones.model_wrappers._room import Room
from vlm_backbones.model_wrappers._state_recorder import StateRecorder, Told
from vlm_backbones.model_wrappers._stops import StopStrings
from vlm_backbones.model_wrappers._vision import ImageEncoder

__all__ = ["Answerer"]

T = TypeVar("T")

LONG_ANSWER_TOKENS = 64


@dataclass(frozen=True)
class _Started:
    """A request whose prompt has been read."""

    row: Prepared
    prompt: Prompt
    scores: Sequence[OptionScore]


class Answerer:
    """Answers prepared requests with one engine, and counts tokens that were nearly tied."""

    def __init__(
        self, engine: Engine, room: Room, encoder: ImageEncoder, recorder: StateRecorder | None = None
    ) -> None:
        self.engine = engine
        self.room = room
        self.recorder = recorder
        self.encoder = encoder
        self.stops = lru_cache(maxsize=64)(lambda until: StopStrings(engine.tokenizer, until))
        self.near_ties = 0
        self._flight: Flight[_Started] = Flight(engine)

    def answers(self, queue: Queue[Prepared]) -> Iterator[tuple[Job, Record]]:
        """Yield each request's greedy answer, with its options scored where the document has some, as they end."""
        recorded: list[Writing[_Started]] = []
        while len(self._flight) or queue.waits():
            free = self._free(queue)
            for ended in self._start(queue, free) if free else self._write(queue):
                self.near_ties += ended.answer.near_ties
                yield ended.owner.row.document.job, self._record(ended)
                if ended.owner.row.question is not None:
                    recorded.append(ended)
            if len(recorded) >= self.room.rows:
                recorded = self._keep_states(recorded)
        self._keep_states(recorded)

    def scores(self, queue: Queue[Prepared]) -> Iterator[tuple[Job, Sequence[OptionScore]]]:
        """Yield the scores of each request's options without the end of turn."""
        while queue.waits():
            batch = queue.take(self.room.rows, self.room.pass_positions)
            started = self.room.try_with(len(batch), partial(self._scored, batch, queue))
            if started is None:
                queue.put_back(batch)
                continue
            for row, scores in zip(batch, started, strict=True):
                self._refuse_nan(row, [score.logprob for score in scores])
                yield row.document.job, scores

    def _free(self, queue: Queue[Prepared]) -> int:
        """Return how many rows may start now: none before so many are free that reading their prompts pays."""
        most = self.room.rows // 2
        if len(self._flight) and self.room.rows - len(self._flight) < max(1, most // 2):
            return 0  # the usual step of long answers
        following = queue.upcoming(max(1, most))
        if not following:
            return 0
        new_tokens = following[0].document.job.new_tokens
        rows = [following[0], *(writing.owner.row for writing in self._flight.writing)]
        longest = max(map(_span, rows))
        if self.room.compiled:  # room for the longest answer behind the longest prompt is taken at once
            longest = max(row.cost for row in rows) + max(row.document.job.new_tokens for row in rows)
        free = self.room.rows_of(longest) - len(self._flight)
        if not len(self._flight):
            return max(1, free)
        # A long answer's place is worth filling soon; short ones end together, and larger passes read faster.
        wanted = most // 2 if new_tokens >= LONG_ANSWER_TOKENS else most
        return free if free >= min(max(1, wanted), len(following)) else 0

    def _start(self, queue: Queue[Prepared], free: int) -> list[Writing[_Started]]:
        """Read the next prompts; return what ends there, and let the rest be written on."""
        batch = queue.take(free, self.room.pass_positions)
        ended = self.room.try_with(len(batch) + len(self._flight), partial(self._read, batch, queue))
        if ended is None:
            queue.put_back(batch)
            if self.engine.compiled is not None:  # whose rows may have been on the move
                self._begin_again(queue)
        return ended or []

    def _read(self, batch: Sequence[Prepared], queue: Queue[Prepared]) -> list[Writing[_Started]]:
        prompts, prefix, scores = self._prefill(batch, queue)
        best = choose(prefix.logits)
        ended, places, going = [], [], []
        for place, (row, prompt, scored) in enumerate(zip(batch, prompts, scores, strict=True)):
            rules = self._rules(row.document.job, len(prompt.token_ids))
            answer, goes_on = follow_drafts(best, place, rules, row.option_ids)
            writing = Writing(_Started(row, prompt, scored), answer, rules)
            if goes_on:
                places.append(place)
                going.append(writing)
            else:
                ended.append(writing)
        if going:
            self._flight.join(prefix, places, going)
        return ended

    def _write(self, queue: Queue[Prepared]) -> list[Writing[_Started]]:
        """Write one token a row; where memory runs out, the rows begin again later, fewer at once."""
        ended = self.room.try_with(len(self._flight), self._flight.step)
        if ended is None:
            self._begin_again(queue)
        return ended or []

    def _begin_again(self, queue: Queue[Prepared]) -> None:
        queue.put_back([writing.owner.row for writing in self._flight.writing])
        self._flight = Flight(self.engine)
        if self.engine.compiled is not None:
            self.engine.compiled.free()

    def _scored(self, batch: Sequence[Prepared], queue: Queue[Prepared]) -> list[list[OptionScore]]:
        _, _, scores = self._prefill(batch, queue, ends=False)
        return scores

    def _prefill(
        self, batch: Sequence[Prepared], queue: Queue[Prepared], *, ends: bool = True
    ) -> tuple[list[Prompt], Prefix, list[list[OptionScore]]]:
        """Read the prompts of a batch and score their options, with the end of turn or without it."""
        features = self._features(batch, queue)
        prompts = [self._expanded(row, features) for row in batch]
        options = [[ids if ends else ids[:-1] for ids in row.option_ids] for row in batch]
        branches = option_branches(options, self.engine.device)
        prefix = prefill(self.engine, prompts, features, branches)
        return prompts, prefix, score_options(prefix, options)

    def _features(self, batch: Sequence[Prepared], queue: Queue[Prepared]) -> Mapping[str, torch.Tensor]:
        """Return the features of a batch's images; where some are missing, later ones are computed along."""
        images = images_of(batch)
        if self.encoder.lacks(images):
            for row in queue.at_hand(self.room.images):
                if len(images) < self.room.images:
                    images |= images_of([row])
        return self.encoder.encode(images)

    def _expanded(self, row: Prepared, features: Mapping[str, torch.Tensor]) -> Prompt:
        """Return the prompt with as many image tokens as its images have features; refuse one too long."""
        ids = self._expand(row, row.prompt, features)
        needed = len(ids) + max([1, *(len(option) for option in row.option_ids)])
        longest = self.engine.max_tokens
        if longest is not None and needed > longest:
            job = row.document.job
            raise DataError(
                f"task {job.task!r}, row {job.doc_id}: prompt and answer need {needed} tokens or more, the backbone "
                f"takes {longest}. Shorten the question."
            )
        return Prompt(ids, row.image_keys)

    def _expand(self, row: Prepared, values: Sequence[T], features: Mapping[str, torch.Tensor]) -> list[T]:
        """Return values of the prompt's tokens where they stand in the backbone's input: an image's once a feature."""
        counts, image = iter([len(features[key]) for key in row.image_keys]), self.engine.image_token_id
        expanded: list[T] = []
        for token, value in zip(row.prompt, values, strict=True):
            if token == image:
                expanded += [value] * next(counts)
            else:
                expanded.append(value)
        return expanded

    def _rules(self, job: Job, prompt_length: int) -> Rules:
        longest, stops = self.engine.max_tokens, self.stops(job.until)
        limit = job.new_tokens if longest is None else min(job.new_tokens, longest - prompt_length)
        return Rules(limit, self.engine.end_ids, stops.found if stops.until else None)

    def _record(self, ended: Writing[_Started]) -> Record:
        started, answer = ended.owner, ended.answer
        document, names = started.row.document, started.row.options
        self._refuse_nan(started.row, [answer.logprob, *(score.logprob for score in started.scores)])
        return Record(
            text=self.stops(document.job.until).text(answer.token_ids),
            input_tokens=len(started.prompt.token_ids),
            token_count=answer.token_count,
            logprob=answer.logprob,
            truncated=answer.truncated,
            option_logprobs={name: score.logprob for name, score in zip(names, started.scores, strict=True)} or None,
            doc_key=document.doc_key,
            image_key=document.image_key,
            checkpoint=self.engine.fingerprint,
            condition=document.condition,
        )

    def _refuse_nan(self, row: Prepared, logprobs: Sequence[float]) -> None:
        if not any(map(math.isnan, logprobs)):
            return
        job = row.document.job
        raise CheckpointError(
            f"task {job.task!r}, row {job.doc_id}: {self.engine.tokenizer.name_or_path}: the weights give no numbers "
            f"(NaN) in {self.engine.model.dtype}. If that is float16, evaluate with dtype=bfloat16 or float32; else "
            "the training went wrong or the file is damaged: make the checkpoint again."
        )

    def _keep_states(self, ended: list[Writing[_Started]]) -> list[Writing[_Started]]:
        """Record the hidden states of ended answers; return those left over: none."""
        while ended:
            part = ended[: self.room.rows]
            if self.room.try_with(len(part), partial(self._record_states, part)):
                ended = ended[len(part) :]
        return ended

    def _record_states(self, ended: Sequence[Writing[_Started]]) -> int:
        features = self.encoder.encode(images_of([writing.owner.row for writing in ended]))
        assert self.recorder is not None
        self.recorder.record([self._told(writing, features) for writing in ended], features)
        return len(ended)

    def _told(self, ended: Writing[_Started], features: Mapping[str, torch.Tensor]) -> Told:
        row, prompt = ended.owner.row, ended.owner.prompt
        assert row.question is not None
        return Told(
            job=row.document.job,
            doc_key=row.document.doc_key,
            prompt=prompt.token_ids,
            question=self._expand(row, row.question, features),
            answer=ended.answer.token_ids,
            image_keys=row.image_keys,
        )


def _span(row: Prepared) -> int:
    """Return the most positions that a request may come to hold."""
    return row.cost + row.document.job.new_tokens

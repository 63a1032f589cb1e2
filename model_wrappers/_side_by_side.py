"""Answerers side by side, a process each: a small backbone's products leave all but one core of a CPU idle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from vlm_backbones.model_wrappers._answering import Answerer
from vlm_backbones.model_wrappers._engine import Engine
from vlm_backbones.model_wrappers._forked import CAN_FORK, merged
from vlm_backbones.model_wrappers._options import OptionScore
from vlm_backbones.model_wrappers._preparing import Prepared, Preparer
from vlm_backbones.model_wrappers._prompting import Prompter
from vlm_backbones.model_wrappers._queue import Queue
from vlm_backbones.model_wrappers._record import Record
from vlm_backbones.model_wrappers._requests import Document, DocumentReader, Job, windows
from vlm_backbones.model_wrappers._room import Room
from vlm_backbones.model_wrappers._state_recorder import StateRecorder
from vlm_backbones.model_wrappers._stock_options import options_of
from vlm_backbones.model_wrappers._vision import ImageEncoder

__all__ = ["Answerers"]

WINDOW_ROWS = 512  # at most: their pictures wait in memory
SENT_AT_ONCE = 32
JOBS_A_FORK = 4  # of fewer, a long answer each at most, a fork's tenth of a second is not worth it

Found = TypeVar("Found")
_Work = Callable[[Answerer, Queue[Prepared]], Iterator[tuple[Job, Found]]]


class Answerers:
    """Answers requests with one engine: in turn, or on a CPU in several processes that share the cores."""

    def __init__(
        self, engine: Engine, reader: DocumentReader, room: Room, recorder: StateRecorder | None = None
    ) -> None:
        self.reader = reader
        self.room = room
        self.recorder = recorder
        self.near_ties = 0
        self.prompter = Prompter(engine)
        self.encoder = ImageEncoder(engine)
        self.threads = torch.get_num_threads()
        self._shares = engine.is_small_on_cpu and CAN_FORK and recorder is None
        self._answerer = Answerer(engine, room, self.encoder, recorder)

    def answers(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Record]]:
        """Yield each request's greedy answer, with its options scored where the document has some, as they end."""
        return self._by_all(jobs, _task_options, Answerer.answers)

    def scores(
        self, jobs: Sequence[Job], options: Callable[[Document], Sequence[str]]
    ) -> Iterator[tuple[Job, Sequence[OptionScore]]]:
        """Yield the scores of each request's options without the end of turn."""
        return self._by_all(jobs, options, Answerer.scores)

    def _by_all(
        self, jobs: Sequence[Job], options: Callable[[Document], Sequence[str]], work: _Work[Found]
    ) -> Iterator[tuple[Job, Found]]:
        self.room.sharers = max(1, min(self.threads, len(jobs) // JOBS_A_FORK)) if self._shares else 1
        if self.room.sharers == 1:
            yield from self._alone(jobs, options, work)
            self.near_ties += self._answerer.near_ties
            return
        job_of = {job.index: job for job in jobs}
        shares = _deal(list(windows(jobs, self._window)), self.room.sharers)
        for place, found in merged([self._forked(share, options, work) for share in shares]):
            if place is not None:
                yield job_of[place], found
            else:
                near_ties, fitted, images = found
                self.near_ties += near_ties
                self.room.images = min(self.room.images, images)
                self.room.fitted = min((rows for rows in (self.room.fitted, fitted) if rows), default=None)

    @property
    def _window(self) -> int:
        return min(4 * self.room.rows, WINDOW_ROWS)

    def _alone(
        self, jobs: Sequence[Job], options: Callable[[Document], Sequence[str]], work: _Work[Found]
    ) -> Iterator[tuple[Job, Found]]:
        self._answerer.near_ties = 0  # a fork would tell again what its parent had counted
        keeps = self.recorder.wants if self.recorder else lambda job: False
        preparer = Preparer(self.reader, self.prompter, options, keeps, self.encoder.tokens_an_image)
        return work(self._answerer, Queue(preparer.windows(jobs, self._window), _cost))

    def _forked(
        self, jobs: Sequence[Job], options: Callable[[Document], Sequence[str]], work: _Work[Found]
    ) -> Iterator[list[tuple[int | None, Any]]]:
        """Yield, in a process of its own, what is found by the request's number; last, what else the parent is told."""
        # The parent's other threads are not there in a fork: a product that waits for them would wait for ever.
        torch.set_num_threads(1)
        waiting: list[tuple[int | None, Any]] = []
        for job, found in self._alone(jobs, options, work):
            waiting.append((job.index, found))
            if len(waiting) == SENT_AT_ONCE:
                yield waiting
                waiting = []
        yield [*waiting, (None, (self._answerer.near_ties, self.room.fitted, self.room.images))]


def _deal(dealt: Sequence[Sequence[Job]], count: int) -> list[list[Job]]:
    """Return a share each: of every window an equal part, so that all have work of one length, and early."""
    shares: list[list[Job]] = [[] for _ in range(count)]
    for window in dealt:
        for place, share in enumerate(shares):
            share += window[place * len(window) // count : (place + 1) * len(window) // count]
    return [share for share in shares if share]


def _cost(row: Prepared) -> int:
    return row.cost


def _task_options(document: Document) -> list[str]:
    return options_of(document.job.task, document.row, document.job.setting("score_options"))

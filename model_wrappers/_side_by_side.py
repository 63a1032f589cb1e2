"""Answerers side by side, a thread each: a small backbone's products leave all but one core of a CPU idle."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

from vlm_backbones.model_wrappers._answering import Answerer
from vlm_backbones.model_wrappers._engine import Engine
from vlm_backbones.model_wrappers._options import OptionScore
from vlm_backbones.model_wrappers._preparing import Prepared, Preparer
from vlm_backbones.model_wrappers._prompting import Prompter
from vlm_backbones.model_wrappers._queue import Queue
from vlm_backbones.model_wrappers._record import Record
from vlm_backbones.model_wrappers._requests import Document, DocumentReader, Job
from vlm_backbones.model_wrappers._room import Room
from vlm_backbones.model_wrappers._state_recorder import StateRecorder
from vlm_backbones.model_wrappers._stock_options import options_of
from vlm_backbones.model_wrappers._vision import ImageEncoder

__all__ = ["Answerers"]

WINDOW_ROWS = 512  # at most: their pictures wait in memory
MOST_AT_ONCE = 4  # of more, most would wait for Python's lock

Item = TypeVar("Item")


class Answerers:
    """Answers requests with one engine: in turn, or on a CPU by several answerers that share the cores."""

    def __init__(
        self, engine: Engine, reader: DocumentReader, room: Room, recorder: StateRecorder | None = None
    ) -> None:
        self.engine = engine
        self.reader = reader
        self.room = room
        self.recorder = recorder
        self.prompter = Prompter(engine)
        self.encoder = ImageEncoder(engine)
        self.threads = torch.get_num_threads() if engine.is_small_on_cpu else 1
        count = 1 if recorder else min(self.threads, MOST_AT_ONCE)
        room.sharers = count
        self._all = [Answerer(engine, room, self.encoder, recorder) for _ in range(count)]

    @property
    def near_ties(self) -> int:
        """How many tokens were nearly tied."""
        return sum(answerer.near_ties for answerer in self._all)

    def answers(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Record]]:
        """Yield each request's greedy answer, with its options scored where the document has some, as they end."""
        return self._by_all(jobs, _task_options, Answerer.answers)

    def scores(
        self, jobs: Sequence[Job], options: Callable[[Document], Sequence[str]]
    ) -> Iterator[tuple[Job, Sequence[OptionScore]]]:
        """Yield the scores of each request's options without the end of turn."""
        return self._by_all(jobs, options, Answerer.scores)

    def _by_all(
        self,
        jobs: Sequence[Job],
        options: Callable[[Document], Sequence[str]],
        work: Callable[[Answerer, Queue[Prepared]], Iterator[Item]],
    ) -> Iterator[Item]:
        keeps = self.recorder.wants if self.recorder else lambda job: False
        preparer = Preparer(self.reader, self.prompter, options, keeps, self.encoder.tokens_an_image)
        windows = preparer.windows(jobs, min(4 * self.room.rows, WINDOW_ROWS))
        if len(self._all) == 1:
            yield from work(self._all[0], Queue(windows, _cost))
            return
        hands = _deal(windows, len(self._all))
        torch.set_num_threads(max(1, self.threads // len(self._all)))
        try:
            yield from _merged([work(one, Queue(hand, _cost)) for one, hand in zip(self._all, hands, strict=True)])
        finally:
            torch.set_num_threads(self.threads)


def _deal(windows: Iterator[list[Item]], count: int) -> list[Iterator[list[Item]]]:
    """Return one iterator a taker; each window is cut into as many parts, so who gets what does not depend on time."""
    hands: list[deque[list[Item]]] = [deque() for _ in range(count)]
    lock = threading.Lock()

    def hand(place: int) -> Iterator[list[Item]]:
        while True:
            with lock:
                if not hands[place]:
                    window = next(windows, None)
                    if window is None:
                        return
                    for taker, own in enumerate(hands):
                        own.append(window[taker * len(window) // count : (taker + 1) * len(window) // count])
                part = hands[place].popleft()
            yield part

    return [hand(place) for place in range(count)]


def _merged(streams: Sequence[Iterator[Item]]) -> Iterator[Item]:
    """Yield what the streams yield, each run by a thread of its own, as it comes; the first error ends all."""
    found: SimpleQueue[Any] = SimpleQueue()
    stopped = threading.Event()

    def run(stream: Iterator[Item]) -> None:
        try:
            for item in stream:
                found.put((item, None))
                if stopped.is_set():
                    return
            found.put((None, StopIteration()))
        except BaseException as error:
            found.put((None, error))

    threads = [threading.Thread(target=run, args=(stream,), name="answer", daemon=True) for stream in streams]
    for thread in threads:
        thread.start()
    try:
        running = len(threads)
        while running:
            item, ended = found.get()
            if ended is None:
                yield item
            elif isinstance(ended, StopIteration):
                running -= 1
            else:
                raise ended
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def _cost(row: Prepared) -> int:
    return row.cost


def _task_options(document: Document) -> list[str]:
    return options_of(document.job.task, document.row, document.job.setting("score_options"))

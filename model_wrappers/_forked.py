"""Streams of items, each made by a forked process of its own and merged as they come."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn, TypeVar

__all__ = ["CAN_FORK", "merged"]

CAN_FORK = sys.platform == "linux"
"""Elsewhere a fork loses what the system's libraries hold in threads."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

Item = TypeVar("Item")


def merged(streams: Sequence[Iterator[list[Item]]]) -> Iterator[Item]:
    """Yield what the streams yield, list by list as they come; the first error ends all.

    A fork has what this process has loaded, without a copy and without a second start; what it changes stays its own.

    Raises
    ------
    RuntimeError
        If a process is killed; any error of a stream as it was raised there, with its traceback as a note.
    """
    context = multiprocessing.get_context("fork")
    running: dict[Any, BaseProcess] = {}
    try:
        for stream in streams:
            receiving, sending = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(target=_run, args=(stream, sending), name="answer", daemon=True)
            process.start()
            sending.close()  # before the next fork: a pipe ends when its last writer does
            running[receiving] = process
        while running:
            for ready in wait(list(running)):
                items = _received(ready, running[ready])
                if items is None:
                    del running[ready]
                else:
                    yield from items
    finally:
        for process in running.values():
            process.kill()
            process.join()


def _received(receiving: Any, process: BaseProcess) -> list[Any] | None:
    """Return the next items of a process; None where it has no more."""
    try:
        items, error = pickle.loads(receiving.recv_bytes())
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        raise RuntimeError(
            f"a process that answered questions was ended from outside ({how}); was it for memory? Run again, with "
            "OMP_NUM_THREADS=1 where it recurs: then there is one process."
        ) from None
    if error is not None:
        raise error
    return items if items is None else list(items)


def _run(stream: Iterator[list[Any]], sending: Any) -> NoReturn:
    """Send what a stream yields, or the error that ended it; nothing of the parent's own clean-up is repeated here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _keep_freed_memory()
    try:
        for items in stream:
            sending.send_bytes(pickle.dumps((items, None)))
        sending.send_bytes(pickle.dumps((None, None)))
    except BrokenPipeError:
        pass  # the parent has ended
    except BaseException as error:
        sending.send_bytes(_pickled(error))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _keep_freed_memory() -> None:
    """Let the next pass use what one frees: glibc gives it back to the system, which clears it page by page anew."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            mallopt(parameter, 2**30)


def _pickled(error: BaseException) -> bytes:
    error.add_note("".join(traceback.format_exception(error)).rstrip())
    try:
        found = pickle.dumps((None, error))
        pickle.loads(found)
    except Exception:  # an error may hold anything, and its class may want other arguments
        found = pickle.dumps((None, RuntimeError("".join(traceback.format_exception_only(error)).rstrip())))
    return found

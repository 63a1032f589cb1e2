"""What the fuzz tests share: how many inputs, and what every input must obey."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from spoiling import Maker

from vlm_backbones.errors import VlmBackbonesError

LIMIT_SECONDS = 1.0
"""Of processor time an input, so that a loaded machine changes nothing."""
_WARMING_UP_SECONDS = 30.0
_MOST_FAILURES = 20  # of different places, then a test stops
INPUTS, INPUTS_FOR_ASSURANCE = 150, 100_000

# --- how many ---------------------------------------------------------------------------------------------------------

_numbers = range(0)


def set_inputs(first: int, count: int) -> None:
    """Let every test under `fuzz` try these inputs: an input is its number, so that any of them can be had again."""
    global _numbers
    _numbers = range(first, first + count)


def fuzz(**makers: Maker[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Try a test with many inputs: a sample in the usual suite, 100,000 with `--assurance`.

    All are tried; the failures are raised together, one of each place in the code.
    """

    def decorated(test: Callable[..., None]) -> Callable[..., None]:
        def repeated(**fixtures: Any) -> None:
            _try_all(test, makers, fixtures)

        asked = inspect.signature(test)
        others = [one for name, one in asked.parameters.items() if name not in makers]
        repeated.__signature__ = asked.replace(parameters=others)  # type: ignore[attr-defined]
        repeated.__name__, repeated.__doc__, repeated.__module__ = test.__name__, test.__doc__, test.__module__
        return repeated

    return decorated


def _try_all(test: Callable[..., None], makers: dict[str, Maker[Any]], fixtures: dict[str, Any]) -> None:
    failures: dict[str, Exception] = {}
    counts: Counter[str] = Counter(crashes=0, hangs=0, escapes=0)
    _outcomes.clear()
    tried, slowest = 0, (0.0, 0)
    for number in _numbers:
        chance = Random(f"{test.__name__} {number}")
        values = {name: make(chance) for name, make in makers.items()}
        tried += 1
        started = time.process_time()
        try:
            test(**fixtures, **values)
        except Exception as error:
            counts[error.kind if isinstance(error, UnlawfulError) else "crashes"] += 1
            error.add_note(f"input {number} (--inputs-from {number} --inputs 1): {values!r:.3000}")
            failures.setdefault(_place(error), error)
            if len(failures) == _MOST_FAILURES:
                break
        slowest = max(slowest, (time.process_time() - started, number))
    read = _outcomes["read"] / max(_outcomes.total(), 1)
    found = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    print(f"{test.__name__}: {tried} inputs, {found}; {read:.0%} read, the others refused; "
          f"slowest: {slowest[0]:.2f} s of input {slowest[1]}")  # fmt: skip # shown by -rP
    if failures:
        raise ExceptionGroup(f"{sum(counts.values())} of {tried} inputs", list(failures.values()))


def _place(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return f"{type(error).__name__} {[(frame.filename, frame.lineno) for frame in frames]}"


# --- the law ----------------------------------------------------------------------------------------------------------


class UnlawfulError(AssertionError):
    """What an input may not do; `kind` is the count it belongs to."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _OutOfTime(BaseException):
    """Not an `Exception`, so that nothing between here and there swallows it."""


class _Escaped(BaseException):
    pass


_WRITERS = {"os.mkdir": 0, "os.remove": 0, "os.rmdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1,
            "os.truncate": 0, "os.chmod": 0, "os.chown": 0, "shutil.rmtree": 0}  # fmt: skip
_FORBIDDEN = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen",
              "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "ctypes.dlopen"}  # fmt: skip
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_allowed: list[Path] = []  # where this may be written; empty: nothing is watched


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _allowed:
        return
    if event in _FORBIDDEN:
        raise _Escaped(f"{event}{arguments!r:.200}")
    if event == "open":
        path, _, flags = arguments
        if not isinstance(flags, int) or not flags & _WRITE_FLAGS:
            return
    elif event in _WRITERS:
        path = arguments[_WRITERS[event]]
    else:
        return
    if isinstance(path, int):
        return
    descriptors = [one for one in arguments[_WRITERS.get(event, 0) + 1 :] if isinstance(one, int) and one > 0]
    folder = f"/proc/self/fd/{descriptors[-1]}" if event in _WRITERS and descriptors else "."
    if not Path(folder, os.fsdecode(path)).resolve().is_relative_to(_allowed[0]):
        raise _Escaped(f"{event} of {path!r}, outside {_allowed[0]}")


sys.addaudithook(_watch)


def _stop(*_: object) -> None:
    raise _OutOfTime


_calls: Counter[str] = Counter()  # by test
_outcomes: Counter[str] = Counter()


@contextmanager
def lawful(out: Path) -> Iterator[None]:
    """Allow the body a result or one of our errors, a second, and writing under `out`; no process, no connection.

    The first ten inputs of a test have longer: what they import is no part of an input's time.
    """
    test = os.environ.get("PYTEST_CURRENT_TEST", "")
    _calls[test] += 1
    limit = LIMIT_SECONDS if _calls[test] > 10 else _WARMING_UP_SECONDS
    signal.signal(signal.SIGPROF, _stop)
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, limit)
    _allowed.append(out)
    try:
        yield
        _outcomes["read"] += 1
    except VlmBackbonesError as error:
        _outcomes["refused"] += 1
        if not str(error).strip():
            raise AssertionError("an error without a message") from error
    except _OutOfTime as error:
        raise UnlawfulError("hangs", f"more than {limit} s of processor time") from error
    except _Escaped as error:
        raise UnlawfulError("escapes", f"not allowed: {error}") from error
    finally:
        _allowed.pop()
        signal.setitimer(signal.ITIMER_PROF, 0)
    # the signal is lost where it comes while a destructor or C code runs
    if time.process_time() - started >= 1.2 * limit:
        raise UnlawfulError("hangs", f"more than {limit} s of processor time")

"""What the fuzz tests share: how many inputs, what every input must obey, and how good inputs are spoilt."""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from vlm_backbones.errors import VlmBackbonesError

LIMIT_SECONDS = 1.0
"""Of processor time an input, so that a loaded machine changes nothing."""
_WARMING_UP_SECONDS = 30.0
INPUTS, INPUTS_FOR_ASSURANCE = 150, 100_000

# --- how many ---------------------------------------------------------------------------------------------------------


def set_inputs(inputs: int) -> None:
    """Let every test under `fuzz` try so many inputs; it is called before the tests are imported."""
    settings.register_profile(
        "fuzz",
        max_examples=inputs,
        deadline=None,  # `lawful` measures processor time
        database=None,
        derandomize=inputs <= INPUTS,  # the usual suite tries the same inputs every time
        print_blob=True,
        phases=[Phase.explicit, Phase.generate],  # an input that hangs would be shrunk for an hour
        suppress_health_check=list(HealthCheck),
    )


def fuzz(**inputs: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Try a test with many inputs: a sample in the usual suite, 100,000 with `--assurance`."""

    def decorated(test: Callable[..., None]) -> Callable[..., None]:
        return settings.get_profile("fuzz")(given(**inputs)(test))

    return decorated


# --- the law ----------------------------------------------------------------------------------------------------------


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
    _allowed.append(out.resolve())
    try:
        yield
    except VlmBackbonesError as error:
        if not str(error).strip():
            raise AssertionError("an error without a message") from error
    except _OutOfTime as error:
        raise AssertionError(f"more than {limit} s of processor time") from error
    except _Escaped as error:
        raise AssertionError(f"not allowed: {error}") from error
    finally:
        _allowed.pop()
        signal.setitimer(signal.ITIMER_PROF, 0)
    # the signal is lost where it comes while a destructor or C code runs
    assert time.process_time() - started < 1.2 * limit, f"more than {limit} s of processor time"


# --- inputs -----------------------------------------------------------------------------------------------------------

ODD_TEXTS = [
    "", " ", "\0", "\n", "a\0b", "\ud800", "\u202eabc", "é", "²", "٣", "None", "NaN", "-inf", "1e999", "1e400", "0x10",
    "1_000", "true", "../../etc/passwd", "/etc/passwd", "..", ".", "~", "~root/x", "http://localhost/x.png",
    "file:///etc/passwd", "C:\\x", "${oc.env:HOME}", "${nothing}", "{{7*7}}", "{0.__class__}", "%s%n", "<image>",
    "<bbox0>", "<bbox99>", "!!python/object/apply:os.system ['true']", "!function os.system", "=1+1", "a" * 100_000,
    "1" * 30_000, " " * 30_000, "-" * 30_000, "a/" * 3000, "[" * 3000, "9" * 400,
]  # fmt: skip
ODD_NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 10**400, 0.0, -0.0, 1e-320, 1e308, 1e39, float("inf"),
               float("-inf"), float("nan")]  # fmt: skip

odd_text = st.sampled_from(ODD_TEXTS) | st.text(max_size=20)
odd_leaf = (
    st.none() | st.booleans() | st.integers(-3, 300) | st.sampled_from(ODD_NUMBERS) | st.floats() | odd_text
)  # fmt: skip
odd_value = st.recursive(
    odd_leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=3), max_leaves=5
)
_EDITS = st.lists(
    st.tuples(
        st.integers(0, 10_000),
        st.sampled_from(["replace", "replace", "replace", "delete", "wrap", "rename", "repeat"]),
        odd_value,
    ),
    max_size=3,
)
_ODD_BYTES = [b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"{", b"}", b"\n", b"\r", b",", b"NaN", b"[" * 20_000,
              b'{"a":' * 20_000, b"- " * 20_000, b"1" * 5000, b" " * 30_000]  # fmt: skip
_BYTE_EDITS = st.lists(
    st.tuples(
        st.integers(0, 1_000_000),
        st.sampled_from(["insert", "overwrite", "delete", "cut", "repeat"]),
        st.binary(max_size=6) | st.sampled_from(_ODD_BYTES),
    ),
    max_size=3,
)


@st.composite
def spoilt(draw: Any, good: Sequence[Any]) -> Any:
    """Return one of several good JSON-like values with up to three of its places changed."""
    value = copy.deepcopy(draw(st.sampled_from(good)))
    for place, how, new in draw(_EDITS):
        value = _edited(value, place, how, new)
    return value


def _edited(value: Any, place: int, how: str, new: Any) -> Any:
    places = list(_places(value))
    if not places:
        return new
    holder, key = places[place % len(places)]
    if how == "delete":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[str(new)[:40]] = holder.pop(key)
    elif how == "wrap":
        holder[key] = [holder[key]]
    elif how == "repeat" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    else:
        holder[key] = new
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


@st.composite
def spoilt_bytes(draw: Any, good: st.SearchStrategy[bytes]) -> bytes:
    """Return bytes with up to three edits."""
    data = draw(good)
    for place, how, new in draw(_BYTE_EDITS):
        at = place % (len(data) + 1)
        if how == "insert":
            data = data[:at] + new + data[at:]
        elif how == "overwrite":
            data = data[:at] + new + data[at + len(new) :]
        elif how == "delete":
            data = data[:at] + data[at + 1 + len(new) :]
        elif how == "cut":
            data = data[:at]
        else:
            data = data[:at] + data[at : at + 40] * 20 + data[at:]
    return bytes(data)


def as_json(value: Any) -> bytes:
    """Return JSON as Python writes it, lone surrogates as escapes and NaN bare."""
    return json.dumps(value, default=str).encode()


def mostly(good: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return the bytes as they are, or in a third of the cases spoilt too."""
    return st.integers(0, 2).flatmap(lambda kind: good if kind else spoilt_bytes(good))

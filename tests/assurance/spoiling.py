"""How the fuzz tests make their inputs: good ones, spoilt by a seeded generator.

Hypothesis draws odd texts and numbers, once; which of them goes where is drawn here, an input at a time, since 100,000
inputs of nested strategies cost hours. A maker is a function from the generator to one value.
"""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

Value = TypeVar("Value")
Maker = Callable[[Random], Value]


def _drawn(strategy: st.SearchStrategy[Value], count: int) -> list[Value]:
    """Return values of a strategy, the same in every process."""
    found: list[Value] = []

    @settings(max_examples=count, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def collect(value: Value) -> None:
        found.append(value)

    collect()
    return found


ODD_TEXTS = [
    "", " ", "\0", "\n", "a\0b", "\ud800", "\u202eabc", "é", "²", "٣", "None", "NaN", "-inf", "1e999", "1e400", "0x10",
    "1_000", "true", "../../etc/passwd", "/etc/passwd", "..", ".", "~", "~root/x", "http://localhost/x.png",
    "file:///etc/passwd", "C:\\x", "${oc.env:HOME}", "${nothing}", "{{7*7}}", "{0.__class__}", "%s%n", "<image>",
    "<bbox0>", "<bbox99>", "!!python/object/apply:os.system ['true']", "!function os.system", "=1+1", "a" * 100_000,
    "1" * 30_000, " " * 30_000, "-" * 30_000, "a/" * 3000, "[" * 3000, "9" * 400,
]  # fmt: skip
ODD_NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 10**400, 0.0, -0.0, 1e-320, 1e308, 1e39, float("inf"),
               float("-inf"), float("nan")]  # fmt: skip
_ODD_BYTES = [b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"{", b"}", b"\n", b"\r", b",", b"NaN", b"[" * 20_000,
              b'{"a":' * 20_000, b"- " * 20_000, b"1" * 5000, b" " * 30_000]  # fmt: skip


@functools.cache
def drawn_texts() -> list[str]:
    """Return what Hypothesis thinks of."""
    return _drawn(st.text(max_size=20), 500)


@functools.cache
def drawn_floats() -> list[float]:
    """Return what Hypothesis thinks of."""
    return _drawn(st.floats(), 300)


_EDIT_COUNTS = [0, 0, 0, 1, 1, 1, 2, 3]  # most of several files must be good for a reader to get far
_EDITS = ["replace", "replace", "replace", "delete", "wrap", "rename", "repeat"]

# --- makers -----------------------------------------------------------------------------------------------------------


def among(values: Sequence[Value]) -> Maker[Value]:
    """Return one of these."""
    return lambda chance: chance.choice(values)


def any_of(*makers: Maker[Any]) -> Maker[Any]:
    """Return what one of the makers returns."""
    return lambda chance: chance.choice(makers)(chance)


def some(make: Maker[Value], fewest: int, most: int) -> Maker[list[Value]]:
    """Return a list of this many."""
    return lambda chance: [make(chance) for _ in range(chance.randint(fewest, most))]


def odd_text(chance: Random) -> str:
    """Return a text that nobody expects."""
    return chance.choice(ODD_TEXTS if chance.random() < 0.5 else drawn_texts())


def odd_value(chance: Random) -> Any:
    """Return a JSON-like value that nobody expects; one in six is a list or a dictionary of such."""
    kind = chance.randrange(18)
    if kind < 3:
        size = chance.randint(0, 3)
        if kind == 0:
            return {odd_text(chance): odd_value(chance) for _ in range(size)}
        return [odd_value(chance) for _ in range(size)]
    if kind < 9:
        return odd_text(chance)
    if kind < 11:
        return chance.choice([None, True, False])
    if kind < 13:
        return chance.randint(-3, 300)
    return chance.choice(ODD_NUMBERS if kind < 16 else drawn_floats())


def spoilt(good: Sequence[Any]) -> Maker[Any]:
    """Return one of several good JSON-like values with up to three of its places changed."""
    kept = [pickle.dumps(value) for value in good]

    def make(chance: Random) -> Any:
        value = pickle.loads(chance.choice(kept))
        for _ in range(chance.choice(_EDIT_COUNTS)):
            value = _edited(value, chance)
        return value

    return make


def _edited(value: Any, chance: Random) -> Any:
    places = list(_places(value))
    new = odd_value(chance)
    if not places:
        return new
    holder, key = chance.choice(places)
    how = chance.choice(_EDITS)
    if how == "delete":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[str(new)[:40]] = holder.pop(key)
    elif how == "wrap":
        holder[key] = [holder[key]]
    elif how == "repeat" and isinstance(holder, list):
        holder.append(pickle.loads(pickle.dumps(holder[key])))
    else:
        holder[key] = new
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


def spoilt_bytes(good: Maker[bytes], *, fewest: int = 0) -> Maker[bytes]:
    """Return bytes with up to three edits."""

    def make(chance: Random) -> bytes:
        data = good(chance)
        for _ in range(chance.randint(fewest, 3)):
            at = chance.randint(0, len(data))
            new = chance.choice(_ODD_BYTES) if chance.random() < 0.5 else chance.randbytes(chance.randint(0, 6))
            how = chance.choice(["insert", "overwrite", "delete", "cut", "repeat"])
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
        return data

    return make


def as_json(value: Any) -> bytes:
    """Return JSON as Python writes it, lone surrogates as escapes and NaN bare."""
    return json.dumps(value, default=str).encode()


def written(make: Maker[Value], write: Callable[[Value], bytes] = as_json) -> Maker[bytes]:
    """Return a value as a file holds it, in one case of five with its bytes spoilt too."""

    def good(chance: Random) -> bytes:
        return write(make(chance))

    spoilt_too = spoilt_bytes(good, fewest=1)
    return lambda chance: (good if chance.randrange(5) else spoilt_too)(chance)

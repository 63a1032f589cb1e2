"""Whether the logs have the key that the user names, so that a typing error is not an empty column."""

from __future__ import annotations

__all__ = ["AskedKey"]

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlm_backbones.analysis._values import Record, lookup
from vlm_backbones.errors import ConfigError, nearest

_ABSENT = object()
_NOT_OFFERED = frozenset(["resps", "filtered_resps", "arguments", "token_counts", "doc_hash", "input"])
_LONGEST_LIST = 8


class AskedKey:
    """`option` names `key`; `look` at every batch of samples, then `refuse_unknown`."""

    def __init__(self, option: str, key: str, otherwise: str) -> None:
        self._option, self._key, self._otherwise = option, key, otherwise
        self._known: dict[str, None] = {}
        self._found = self._found_here = False

    def look(self, records: Sequence[Record]) -> None:
        """Note whether a sample has the key, and which keys there are."""
        if not self._found_here:
            self._found_here = any(lookup(record, self._key, _ABSENT) is not _ABSENT for record in records)
            self._known |= dict.fromkeys(name for name in _leaves(records[0]) if name)

    def end_of_file(self, path: object, notes: list[str]) -> None:
        """Say what happens to a file in which no sample has the key."""
        if not self._found_here:
            notes.append(f"{path}: no sample has {self._option} {self._key}; {self._otherwise}.")
        self._found, self._found_here = self._found or self._found_here, False

    def refuse_unknown(self) -> None:
        """Raise ConfigError where no sample of any log has the key."""
        if not self._found:
            raise ConfigError(f"{self._option} {self._key!r}: no sample has this key.{nearest(self._key, self._known)}")


def _leaves(value: Any, before: str = "") -> Iterator[str]:
    """Every key under which something other than a mapping or list stands, dots between."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if before or name not in _NOT_OFFERED:
                yield from _leaves(inner, f"{before}.{name}" if before else str(name))
    elif isinstance(value, list) and 0 < len(value) <= _LONGEST_LIST:
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{before}.{place}")
    else:
        yield before

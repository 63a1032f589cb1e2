"""What is wrong with rows, gathered so that one error names them all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from vlm_backbones.errors import DataError

_SHOWN = 20
_PLACE = re.compile(r".*? row \d+")


class BadRows:
    """Gathers the `DataError` of each row; `refuse` raises one that lists them.

    Attributes
    ----------
    left_out
        Places (file and row) that the user leaves out: what is wrong there does not matter.
    ignored
        Those of them that were bad.
    """

    def __init__(self) -> None:
        self._found: dict[str, None] = {}  # in order, each once: the stages of a study read the same rows
        self._elsewhere: dict[str, None] = {}
        self.left_out: set[str] = set()
        self.ignored: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._found or self._elsewhere)

    def take(self, other: BadRows) -> None:
        """Also refuse what `other` gathered, from files whose rows cannot be left out."""
        self._elsewhere |= other._found

    @property
    def places(self) -> list[str]:
        """File and row of each, as `left_out` takes them; a message that names no row has none."""
        matches = [_PLACE.match(message) for message in self._found]
        return list(dict.fromkeys(match.group() for match in matches if match))

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Keep a `DataError` of the body for `refuse` and go on after it."""
        try:
            yield
        except DataError as error:
            place = _PLACE.match(str(error))
            if place and place.group() in self.left_out:
                self.ignored.add(place.group())
            else:
                self._found[str(error)] = None

    def refuse(self) -> None:
        """Raise `DataError` with every message gathered; nothing where there is none."""
        found = [*self._found, *self._elsewhere]
        if len(found) == 1:
            raise DataError(found[0])
        if found:
            more = f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise DataError(f"{len(found)} bad rows:" + "".join(f"\n  - {row}" for row in found[:_SHOWN]) + more)

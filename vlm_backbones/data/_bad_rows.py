"""What is wrong with rows, gathered so that one error names them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vlm_backbones.errors import DataError

_SHOWN = 20


class BadRows:
    """Gathers the `DataError` of each row; `refuse` raises one that lists them."""

    def __init__(self) -> None:
        self._found: dict[str, None] = {}  # in order, each once: the stages of a study read the same rows

    def __bool__(self) -> bool:
        return bool(self._found)

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Keep a `DataError` of the body for `refuse` and go on after it."""
        try:
            yield
        except DataError as error:
            self._found[str(error)] = None

    def refuse(self) -> None:
        """Raise `DataError` with every message gathered; nothing where there is none."""
        found = list(self._found)
        if len(found) == 1:
            raise DataError(found[0])
        if found:
            more = f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise DataError(f"{len(found)} bad rows:" + "".join(f"\n  - {row}" for row in found[:_SHOWN]) + more)

"""Tables for people: folded to a terminal's width, whole where the output is piped. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

__all__ = ["print_rows", "wide_console"]

_PIPED_COLUMNS = 10_000


def wide_console() -> Console:
    """Return a console that does not fold tables where the output is no terminal."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=_PIPED_COLUMNS)


def print_rows(rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows of equal keys as a table whose cells are folded, never cut: ids are copied from it."""
    table = Table(box=None)
    for key in rows[0]:
        table.add_column(key, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    wide_console().print(table)

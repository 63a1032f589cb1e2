"""Tables for people: in a terminal as wide as it is, whole where the output is piped. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["print_rows", "wide_console"]

_PIPED_COLUMNS = 10_000
_GAP = 2
_NARROWEST = 14
"""Below this a folded column is no longer read."""


def wide_console() -> Console:
    """Return a console that does not fold tables where the output is no terminal."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=_PIPED_COLUMNS)


def print_rows(rows: Sequence[Mapping[str, str]], *, more: str = "", console: Console | None = None) -> None:
    """Print rows of equal keys as a table; where it is too wide for the terminal, so that it can still be read.

    Nothing is ever cut: ids are copied from here.

    Parameters
    ----------
    rows
        The most important columns first.
    more
        Where a reader finds the columns that do not fit, which are then left out. Without it the last of two columns
        is folded, and rows of more columns are printed one below the other.
    console
        Where to print; default: standard output.
    """
    console = console or wide_console()
    names = list(rows[0])
    widths = [max(len(name), *(len(row[name]) for row in rows)) + _GAP for name in names]
    if sum(widths) - _GAP <= console.width or len(names) == 2:
        console.print(_table(rows, names), highlight=False)
    elif more:
        kept = _fitting(names, widths, console.width)
        console.print(_table(rows, kept), highlight=False)
        left_out = ", ".join(names[len(kept) :])
        console.print(escape(f"{left_out}: {more}"), soft_wrap=True, highlight=False)
    else:
        console.print(f"{escape(names[0])}:", soft_wrap=True, highlight=False)
        for row in rows:
            console.print(f"[bold]{escape(row[names[0]])}[/bold]", soft_wrap=True, highlight=False)
            console.print(_table([{"": f"  {name}", " ": row[name]} for name in names[1:]], ["", " "], header=False))


def _fitting(names: Sequence[str], widths: Sequence[int], width: int) -> list[str]:
    """Return the first columns that fit, the last of them folded where that leaves it readable."""
    before = [0, *accumulate(widths)]
    return [name for place, name in enumerate(names) if before[place] + min(widths[place] - _GAP, _NARROWEST) <= width]


def _table(rows: Sequence[Mapping[str, str]], names: Sequence[str], *, header: bool = True) -> Table:
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, show_header=header)
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name != names[-1])
    for row in rows:
        table.add_row(*(escape(row[name]) for name in names))
    return table

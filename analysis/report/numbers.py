"""How the verdict words differences, shares, counts and lists."""

from __future__ import annotations

__all__ = ["MOST_NAMED", "count", "difference", "joined", "n_of", "percent", "share", "size", "some", "unit"]

from collections.abc import Iterable, Sequence

from vlm_backbones.analysis.report.changes import Change, Ranged

MOST_NAMED = 5
_MINUS = "\u2212"


def difference(row: Change) -> str:
    """14.2 points [9.2, 19.2]; of a score that is no share, in its own unit."""
    value, low, high = (size(row, end) for end in row.diff)
    return f"{value} {unit(row)} [{low},\u00a0{high}]"


def size(row: Change, value: float) -> str:
    """A share in percentage points, any other score as it is."""
    return (f"{100 * value:.1f}" if row.is_share else f"{value:.2f}").replace("-", _MINUS)


def unit(row: Change) -> str:
    """What `size` counts."""
    return "points" if row.is_share else "of its own unit"


def share(found: Ranged) -> str:
    """12.1 % [8.8, 16.4]."""
    value, low, high = found
    return f"{percent(value)} [{percent(low, '')},\u00a0{percent(high, '')}]"


def percent(value: float, sign: str = "\u00a0%") -> str:
    """A share from 0 to 1 in percent."""
    return f"{100 * value:.1f}{sign}"


def n_of(rows: Iterable[Change]) -> str:
    """n = 654 each, or n = 640 to 654."""
    sizes = [row.n for row in rows]
    if len(set(sizes)) == 1:
        return f"n\u00a0=\u00a0{sizes[0]:,}{' each' if len(sizes) > 1 else ''}"
    return f"n\u00a0=\u00a0{min(sizes):,} to {max(sizes):,}"


def count(number: int, noun: str) -> str:
    """1 task, 2 tasks."""
    return f"{number} {noun}{'s' * (number != 1)}"


def some(parts: Sequence[str]) -> str:
    """The first parts by name, the others by their number."""
    if len(parts) <= MOST_NAMED:
        return joined(parts)
    return joined([*parts[: MOST_NAMED - 1], count(len(parts) - MOST_NAMED + 1, "more task")])


def joined(parts: Sequence[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"

"""Requests in the order in which they are answered: by image and length, taken as many as there is room for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

__all__ = ["Queue", "by_image_and_length"]

Item = TypeVar("Item")


def by_image_and_length(
    items: Sequence[Item], images: Callable[[Item], tuple[str, ...]], cost: Callable[[Item], int]
) -> list[Item]:
    """Return the items with those about the same images together, the longest first: equal ones keep their order."""
    groups: dict[tuple[str, ...] | int, list[Item]] = {}
    for place, item in enumerate(items):
        groups.setdefault(images(item) or place, []).append(item)
    ordered = sorted(groups.values(), key=lambda group: -max(map(cost, group)))
    return [item for group in ordered for item in sorted(group, key=lambda item: -cost(item))]


class Queue(Generic[Item]):
    """Items that arrive in windows; what is taken fits rows and tokens."""

    def __init__(self, windows: Iterator[list[Item]], cost: Callable[[Item], int]) -> None:
        self._windows = windows
        self._cost = cost
        self._waiting: deque[Item] = deque()

    def waits(self) -> bool:
        """Return whether an item is left; waits for the next window where none is at hand."""
        return bool(self.upcoming(1))

    def upcoming(self, count: int) -> list[Item]:
        """Return the next items without taking them, as many as there are up to this number."""
        while len(self._waiting) < count:
            window = next(self._windows, None)
            if window is None:
                break
            self._waiting.extend(window)
        return self.at_hand(count)

    def at_hand(self, count: int) -> list[Item]:
        """Return the next items that have arrived, up to this number."""
        return [self._waiting[place] for place in range(min(count, len(self._waiting)))]

    def take(self, rows: int, positions: int) -> list[Item]:
        """Take the next items: at most so many rows, and rows times the longest within the positions, or one."""
        taken, longest = 0, 0
        for item in self.upcoming(rows):
            longest = max(longest, self._cost(item))
            if taken and (taken + 1) * longest > positions:
                break
            taken += 1
        return [self._waiting.popleft() for _ in range(taken)]

    def put_back(self, items: Sequence[Item]) -> None:
        """Return items to the front, in their order."""
        self._waiting.extendleft(reversed(items))

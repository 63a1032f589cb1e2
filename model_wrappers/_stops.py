"""Stop strings of a task (`until`) on token sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["StopStrings"]


class StopStrings:
    """Finds stop strings while tokens arrive, and cuts the text at the first one."""

    def __init__(self, tokenizer: Any, until: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.until = tuple(until)
        self._last_characters = frozenset(text[-1] for text in until)
        self._tail_tokens = 8 + 4 * max((len(text) for text in until), default=0)
        self._may_end: dict[int, bool] = {}

    def found(self, token_ids: list[int]) -> bool:
        """Return whether the newest token completes a stop string; decodes only where it could."""
        if not self.until or not self._token_may_end(token_ids[-1]):
            return False
        # A stop string may stand anywhere in what the newest token completes, so its tail is decoded as a whole.
        tail = self.tokenizer.decode(token_ids[-self._tail_tokens :], skip_special_tokens=True)
        return any(text in tail for text in self.until)

    def _token_may_end(self, token: int) -> bool:
        if token not in self._may_end:
            text = self.tokenizer.decode([token])
            # A replacement character is a part of a longer character: unknown until its neighbours are there.
            self._may_end[token] = "\ufffd" in text or any(last in text for last in self._last_characters)
        return self._may_end[token]

    def text(self, token_ids: list[int]) -> str:
        """Return the answer's text up to the first stop string."""
        text = str(self.tokenizer.decode(token_ids, skip_special_tokens=True))
        cuts = [place for place in (text.find(stop) for stop in self.until) if place >= 0]
        return text[: min(cuts)].strip() if cuts else text.strip()

"""Answers being written: rows join when their prompts have been read and leave when they end, at any step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch.nn import functional

from vlm_backbones.model_wrappers._cache import build_cache, join_caches
from vlm_backbones.model_wrappers._engine import Engine
from vlm_backbones.model_wrappers._greedy import Generated, Rules
from vlm_backbones.model_wrappers._prefill import Prefix
from vlm_backbones.model_wrappers._room import fixed_shape

__all__ = ["Flight", "Writing"]

Named = TypeVar("Named")


@dataclass
class Writing(Generic[Named]):
    """One answer that goes on: whose it is, what it has so far and when it ends."""

    owner: Named
    answer: Generated
    rules: Rules


class Flight(Generic[Named]):
    """The rows that are written together, aligned at their newest tokens.

    A row that has ended stays as ballast until rows are joined or half of them are ballast: moving the others costs
    more than a few steps of one row. A compiled step has ballast up to its shape's rows from the start.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._rows: list[Writing[Named] | None] = []
        self._cache = build_cache()
        self._length = 0
        self._tokens = torch.zeros(0, dtype=torch.long, device=engine.device)  # (rows,): the newest, not fed yet
        self._positions = self._tokens  # (rows,): where they stand
        self._visible = torch.zeros(0, 0, dtype=torch.bool, device=engine.device)  # (rows, room)

    def __len__(self) -> int:
        return len(self.writing)

    @property
    def writing(self) -> list[Writing[Named]]:
        """The rows that go on."""
        return [row for row in self._rows if row is not None]

    @torch.inference_mode()  # as in a step: to a compiled one, tensors made elsewhere are of another kind
    def join(self, prefix: Prefix, places: Sequence[int], rows: Sequence[Writing[Named]]) -> None:
        """Take over the rows at these places of a prefix; each row's answer holds one token, which is not fed yet."""
        kept = [place for place, row in enumerate(self._rows) if row is not None]
        mine, new = (torch.tensor(chosen, device=self.engine.device) for chosen in (kept, list(places)))
        newest = torch.tensor([row.answer.token_ids[-1] for row in rows], device=self.engine.device)
        visible = [(prefix.mask.bool()[new], newest, prefix.lengths[new])]
        caches = [(prefix.cache, new)]
        if kept:
            visible.insert(0, (self._visible[mine, : self._length], self._tokens[mine], self._positions[mine]))
            caches.insert(0, (self._cache, mine))
        self._align(visible, caches, [*self.writing, *rows])

    def _align(self, tables: Sequence[tuple[torch.Tensor, ...]], caches: Sequence[tuple[object, torch.Tensor]],
               rows: list[Writing[Named]]) -> None:  # fmt: skip
        """Build the tables of all rows, then take them: a failure on the way leaves the flight as it was.

        A compiled step's cache is moved within its own memory: there, a failure leaves nothing.
        """
        spans = [slice(int(table.any(0).int().argmax()), table.shape[1]) for table, _, _ in tables]
        length = max(span.stop - span.start for span in spans)
        compiled, count = self.engine.compiled, len(rows)
        room = length + max(row.rules.limit - row.answer.token_count for row in rows)
        if compiled is not None:
            count, room = fixed_shape(count, room)
        visible = torch.zeros(count, room, dtype=torch.bool, device=self.engine.device)
        start = 0
        for (table, _, _), span in zip(tables, spans, strict=True):
            used = span.stop - span.start
            visible[start : start + len(table), length - used : length] = table[:, span]
            start += len(table)
        parts = [(cache, chosen, span) for (cache, chosen), span in zip(caches, spans, strict=True)]
        if compiled is None:
            self._cache = join_caches(parts, length)
        else:
            self._cache = compiled.join_caches(parts, length, (count, room))
        ballast, (_, tokens, positions) = count - len(rows), zip(*tables, strict=True)
        self._visible, self._length, self._rows = visible, length, [*rows, *[None] * ballast]
        self._tokens, self._positions = (functional.pad(torch.cat(each), (0, ballast)) for each in (tokens, positions))

    @torch.inference_mode()
    def step(self) -> list[Writing[Named]]:
        """Write one token a row; return the rows that have ended."""
        self._drop_ballast()
        self._visible[:, self._length] = True
        self._length += 1
        tokens, logprobs = self._next_tokens()
        ended = []
        for place, (row, token, pair) in enumerate(zip(self._rows, tokens.tolist(), logprobs.tolist(), strict=True)):
            if row is not None and not row.answer.extend(token[0], pair[0], row.rules):
                ended.append(row)
                self._rows[place] = None
        self._tokens.copy_(tokens[:, 0])
        # Ballast stays where it ended: a learned table of positions has no more places than the model's length.
        goes_on = torch.tensor([row is not None for row in self._rows], device=self.engine.device)
        self._positions += goes_on
        return ended

    def _next_tokens(self) -> tuple[torch.Tensor, torch.Tensor]:
        engine, compiled = self.engine, self.engine.compiled
        if compiled is not None:
            return compiled(engine, self._tokens, self._positions, self._visible, self._cache)
        return engine.next_tokens(self._tokens, self._positions, self._visible[:, : self._length], self._cache)

    def _drop_ballast(self) -> None:
        kept = [place for place, row in enumerate(self._rows) if row is not None]
        if 2 * len(kept) > len(self._rows):
            return
        chosen = torch.tensor(kept, device=self.engine.device)
        table = (self._visible[chosen, : self._length], self._tokens[chosen], self._positions[chosen])
        self._align([table], [(self._cache, chosen)], self.writing)

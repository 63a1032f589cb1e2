"""Answers being written: rows join when their prompts have been read and leave when they end, at any step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from vlm_backbones.model_wrappers._cache import build_cache, join_caches
from vlm_backbones.model_wrappers._engine import Engine
from vlm_backbones.model_wrappers._greedy import Generated, Rules, choose
from vlm_backbones.model_wrappers._prefill import Prefix

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
    more than a few steps of one row.
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
        """Build the tables of all rows, then take them: a failure on the way leaves the flight as it was."""
        firsts = [int(table.any(0).int().argmax()) for table, _, _ in tables]
        length = max(table.shape[1] - first for (table, _, _), first in zip(tables, firsts, strict=True))
        room = length + max(row.rules.limit - row.answer.token_count for row in rows)
        visible = torch.zeros(len(rows), room, dtype=torch.bool, device=self.engine.device)
        start = 0
        for (table, _, _), first in zip(tables, firsts, strict=True):
            used = table.shape[1] - first
            visible[start : start + len(table), length - used : length] = table[:, first:]
            start += len(table)
        parts = [(cache, chosen, first) for (cache, chosen), first in zip(caches, firsts, strict=True)]
        self._cache = join_caches(parts, length)
        self._visible, self._length, self._rows = visible, length, list(rows)
        self._tokens = torch.cat([tokens for _, tokens, _ in tables])
        self._positions = torch.cat([positions for _, _, positions in tables])

    @torch.inference_mode()
    def step(self) -> list[Writing[Named]]:
        """Write one token a row; return the rows that have ended."""
        self._drop_ballast()
        self._visible[:, self._length] = True
        self._length += 1
        embeddings = self.engine.model.get_input_embeddings()(self._tokens[:, None])
        visible = self._visible[:, None, : self._length]
        hidden = self.engine.backbone(embeddings, visible, self._positions[:, None], self._cache, 1)
        best = choose(self.engine.logits(hidden))
        ended = []
        for place, row in enumerate(self._rows):
            token, logprobs = best.tokens[place][0], best.logprobs[place][0]
            if row is not None and not row.answer.extend(token, logprobs, row.rules):
                ended.append(row)
                self._rows[place] = None
        self._tokens = best.on_device[:, 0]
        # Ballast stays where it ended: a learned table of positions has no more places than the model's length.
        goes_on = torch.tensor([row is not None for row in self._rows], device=self.engine.device)
        self._positions = self._positions + goes_on
        return ended

    def _drop_ballast(self) -> None:
        kept = [place for place, row in enumerate(self._rows) if row is not None]
        if 2 * len(kept) > len(self._rows):
            return
        chosen = torch.tensor(kept, device=self.engine.device)
        table = (self._visible[chosen, : self._length], self._tokens[chosen], self._positions[chosen])
        self._align([table], [(self._cache, chosen)], self.writing)

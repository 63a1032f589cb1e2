"""Log-probabilities of given answers after a prompt: all options of a batch in the pass that reads the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from vlm_backbones.model_wrappers._prefill import Branches, Prefix

__all__ = ["OptionScore", "Options", "option_branches", "score_options"]

Options = Sequence[Sequence[Sequence[int]]]  # (rows)(options)(tokens)


@dataclass(frozen=True)
class OptionScore:
    """Summed log-probability of one option's tokens, and whether greedy decoding would have given them.

    Of no tokens: 0.0 and true.
    """

    logprob: float
    greedy: bool


@dataclass(frozen=True)
class _RowLayout:
    """One row's options as branches, and where each of their tokens is predicted."""

    ids: np.ndarray  # (width,): the tokens that are fed
    offsets: np.ndarray  # (width,)
    sees: np.ndarray  # (width, width)
    tokens: np.ndarray  # (tokens,): of all options, one after the other
    places: np.ndarray  # (tokens,): 0 where the prompt predicts the token, 1 + k where branch token k does
    owners: np.ndarray  # (tokens,): the option that each belongs to
    count: int  # of the options


@lru_cache(maxsize=4096)
def _row_layout(options: tuple[tuple[int, ...], ...]) -> _RowLayout:
    """Lay out the options of one row; the same few sets of options come again and again."""
    fed = [max(0, len(option) - 1) for option in options]
    width, begin = sum(fed), np.cumsum([0, *fed])
    sees = np.zeros((width, width), dtype=bool)
    places: list[int] = []
    for start, count, option in zip(begin[:-1], fed, options, strict=True):
        sees[start : start + count, start : start + count] = np.tri(count, dtype=bool)
        places += [0, *range(1 + start, 1 + start + count)] if option else []
    return _RowLayout(
        ids=np.array([token for option in options for token in option[:-1]], dtype=np.int64),
        offsets=np.array([offset for count in fed for offset in range(count)], dtype=np.int64),
        sees=sees,
        tokens=np.array([token for option in options for token in option], dtype=np.int64),
        places=np.array(places, dtype=np.int64),
        owners=np.array([place for place, option in enumerate(options) for _ in option], dtype=np.int64),
        count=len(options),
    )


def _layouts(options: Options) -> list[_RowLayout]:
    return [_row_layout(tuple(tuple(option) for option in row)) for row in options]


def option_branches(options: Options, device: torch.device) -> Branches | None:
    """Return the options as branches behind their prompts; None where the prompts' own logits are enough.

    The options of a row stand one after the other; each sees itself alone among them, and their positions all start
    where the prompt ends. So the prompt's keys and values are neither computed nor copied again. An option's last
    token is never fed: nothing depends on it.
    """
    layouts = _layouts(options)
    width = max((len(layout.ids) for layout in layouts), default=0)
    if width == 0:
        return None
    ids, offsets = np.zeros((2, len(layouts), width), dtype=np.int64)
    # A padded place sees itself, so that no row of the attention is empty.
    sees = np.broadcast_to(np.eye(width, dtype=bool), (len(layouts), width, width)).copy()
    for index, layout in enumerate(layouts):
        fed = len(layout.ids)
        ids[index, :fed], offsets[index, :fed] = layout.ids, layout.offsets
        sees[index, :fed, :fed] = layout.sees
    return Branches(*(torch.from_numpy(table).to(device) for table in (ids, offsets, sees)))


@torch.inference_mode()
def score_options(prefix: Prefix, options: Options) -> list[list[OptionScore]]:
    """Read each option's score from the logits of its prompt and its branch."""
    layouts = _layouts(options)
    rows = np.repeat(np.arange(len(layouts)), [len(layout.tokens) for layout in layouts])
    places, tokens = (
        torch.from_numpy(np.concatenate([getattr(layout, name) for layout in layouts])).to(prefix.logits.device)
        for name in ("places", "tokens")
    )
    read = prefix.logits[torch.from_numpy(rows).to(places.device), places]  # (tokens, vocabulary)
    chosen = read.log_softmax(-1).gather(1, tokens[:, None])[:, 0].double().cpu().numpy()
    greedy = (read.argmax(1) == tokens).cpu().numpy()
    scores, first = [], 0
    for layout in layouts:
        last = first + len(layout.tokens)
        sums = np.bincount(layout.owners, chosen[first:last], layout.count)
        others = np.bincount(layout.owners, ~greedy[first:last], layout.count)
        scores.append([OptionScore(float(a), not b) for a, b in zip(sums, others, strict=True)])
        first = last
    return scores

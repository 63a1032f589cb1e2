"""One greedy answer: how tokens join it, when it ends, and when an option's pass has computed it already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

__all__ = ["Best", "Generated", "Rules", "choose", "follow_drafts", "ranked"]

# Two best logits closer than this may change places with the batch's shape.
NEAR_TIE = 1e-4


@dataclass(frozen=True)
class Rules:
    """When an answer ends.

    Attributes
    ----------
    limit
        New tokens allowed.
    end_ids
        Tokens that end a turn.
    stopped
        Whether the answer's tokens so far hold a stop string; None where there is none.
    """

    limit: int
    end_ids: frozenset[int]
    stopped: Callable[[list[int]], bool] | None = None


@dataclass
class Generated:
    """One greedy answer: token ids without the end of turn, and how it ended."""

    token_ids: list[int] = field(default_factory=list)
    token_count: int = 0
    logprob: float = 0.0
    truncated: bool = False
    near_ties: int = 0

    def extend(self, token: int, logprobs: Sequence[float], rules: Rules) -> bool:
        """Add the best token, with its log-probability and the runner-up's; return whether the answer goes on."""
        logprob, runner_up = logprobs
        self.token_count += 1
        self.logprob += logprob
        self.near_ties += logprob - runner_up < NEAR_TIE
        if token in rules.end_ids:
            return False
        self.token_ids.append(token)
        if rules.stopped is not None and rules.stopped(self.token_ids):
            return False
        self.truncated = self.token_count >= rules.limit
        return not self.truncated


@dataclass(frozen=True)
class Best:
    """The greedy choice at each place of each row.

    Attributes
    ----------
    tokens
        (rows)(places).
    logprobs
        (rows)(places)(2): of the best token and of the runner-up.
    """

    tokens: list[list[int]]
    logprobs: list[list[list[float]]]


def choose(logits: torch.Tensor) -> Best:
    """Return the best tokens by float32 logits, (rows, places, vocabulary)."""
    tokens, logprobs = ranked(logits)
    return Best(tokens.tolist(), logprobs.tolist())


def ranked(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best tokens, (rows, places), and the log-probabilities of these and the runners-up, (..., 2)."""
    best = logits.topk(2)  # (rows, places, 2)
    return best.indices[..., 0], best.values - logits.logsumexp(-1, keepdim=True)


def follow_drafts(best: Best, row: int, rules: Rules, drafts: Sequence[Sequence[int]]) -> tuple[Generated, bool]:
    """Return a row's answer as far as its prompt's pass has computed it, and whether it goes on from there.

    Parameters
    ----------
    best
        What follows the prompt, then what follows each token that the drafts have fed.
    drafts
        The row's options, whose tokens but the last were fed behind the prompt.

    Returns
    -------
    An answer that goes on holds its first token alone: the options' keys and values are not in the prompt's cache, so
    one that leaves the options is written again from there.
    """
    first, answer, place = Generated(), Generated(), 0
    if not first.extend(best.tokens[row][0], best.logprobs[row][0], rules):
        return first, False
    while answer.extend(best.tokens[row][place], best.logprobs[row][place], rules):
        place = _place_after(drafts, answer.token_ids)
        if place == 0:
            return first, True
    return answer, False


def _place_after(drafts: Sequence[Sequence[int]], token_ids: list[int]) -> int:
    """Return where the choices continue these tokens; 0 where no draft has fed them."""
    start, count = 1, len(token_ids)
    for draft in drafts:
        if count < len(draft) and list(draft[:count]) == token_ids:
            return start + count - 1
        start += len(draft) - 1
    return 0

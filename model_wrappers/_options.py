"""Log-probabilities of given answers after a prompt: all options of a batch in the pass that reads the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vlm_backbones.model_wrappers._generation import Branches, Prefix

__all__ = ["OptionScore", "Options", "option_branches", "score_options"]

Options = Sequence[Sequence[Sequence[int]]]  # (rows)(options)(tokens), one token or more an option


@dataclass(frozen=True)
class OptionScore:
    """Summed log-probability of one option's tokens, and whether greedy decoding would have given them."""

    logprob: float
    greedy: bool


def option_branches(options: Options, device: torch.device) -> Branches | None:
    """Return the options as branches behind their prompts; None where the prompts' own logits are enough.

    The options of a row stand one after the other; each sees itself alone among them, and their positions all start
    where the prompt ends. So the prompt's keys and values are neither computed nor copied again. An option's last
    token is never fed: nothing depends on it.
    """
    width = max((sum(len(option) - 1 for option in row) for row in options), default=0)
    if width == 0:
        return None
    ids = torch.zeros(len(options), width, dtype=torch.long)
    offsets = torch.zeros(len(options), width, dtype=torch.long)
    # A padded place sees itself, so that no row of the attention is empty.
    sees = torch.eye(width, dtype=torch.bool).repeat(len(options), 1, 1)
    triangle = torch.ones(width, width, dtype=torch.bool).tril()
    for index, row in enumerate(options):
        start = 0
        for option in row:
            end = start + len(option) - 1
            ids[index, start:end] = torch.tensor(option[:-1], dtype=torch.long)
            offsets[index, start:end] = torch.arange(end - start)
            sees[index, start:end, start:end] = triangle[: end - start, : end - start]
            start = end
    return Branches(ids.to(device), offsets.to(device), sees.to(device))


@torch.inference_mode()
def score_options(prefix: Prefix, options: Options) -> list[list[OptionScore]]:
    """Read each option's score from the logits of its prompt and its branch."""
    first = prefix.logits.log_softmax(-1)  # (batch, vocabulary)
    later = None if prefix.branch_logits is None else prefix.branch_logits.log_softmax(-1)  # (batch, width, vocabulary)
    scores: list[list[OptionScore]] = []
    for index, row in enumerate(options):
        start, scored = 0, []
        for option in row:
            fed = len(option) - 1
            parts = [first[index, None]] if later is None else [first[index, None], later[index, start : start + fed]]
            scored.append(_score(torch.cat(parts), option))
            start += fed
        scores.append(scored)
    return scores


def _score(table: torch.Tensor, option: Sequence[int]) -> OptionScore:
    """Score one option; table: (tokens, vocabulary) log-probabilities."""
    tokens = torch.tensor(list(option), device=table.device)
    chosen = table.gather(1, tokens[:, None])[:, 0]
    return OptionScore(float(chosen.double().sum()), bool((table.argmax(1) == tokens).all()))

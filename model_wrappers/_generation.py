"""Batched greedy generation over a shared prefix, with the log-probabilities of what was generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vlm_backbones.model_wrappers._engine import Engine

__all__ = ["Generated", "Prefix", "generate", "prefill"]

# Two best logits closer than this may change places with the batch's shape.
NEAR_TIE = 1e-4


@dataclass
class Prefix:
    """The prompts of one batch after their forward pass, left-padded to one length.

    Attributes
    ----------
    mask
        (batch, length): 1 at tokens, 0 at padding.
    lengths
        (batch,): tokens without padding.
    logits
        (batch, vocabulary), float32: what follows each prompt.
    """

    cache: Any
    mask: torch.Tensor
    lengths: torch.Tensor
    logits: torch.Tensor


@dataclass
class Generated:
    """One greedy answer: token ids without the end of turn, and how it ended."""

    token_ids: list[int] = field(default_factory=list)
    token_count: int = 0
    logprob: float = 0.0
    truncated: bool = False
    near_ties: int = 0


@torch.inference_mode()
def prefill(
    engine: Engine, prompts: Sequence[Sequence[int]], features: Sequence[torch.Tensor], image_token_id: int
) -> Prefix:
    """Run the prompts of one batch.

    Parameters
    ----------
    prompts
        Token ids with every image token repeated as often as its image has features.
    features
        (image_tokens, hidden) of every image, in the order in which the prompts hold them.
    """
    from transformers import DynamicCache

    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(engine.device), mask.to(engine.device)
    is_image = (ids == image_token_id) & mask.bool()
    # The image token has no embedding of its own in some backbones; what stands there is overwritten.
    embeddings = engine.model.get_input_embeddings()(ids.masked_fill(is_image, 0))  # (batch, length, hidden)
    if features:
        embeddings[is_image] = torch.cat(list(features)).to(embeddings.dtype)
    cache = DynamicCache()
    hidden = engine.language_model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state  # (batch, length, hidden)
    return Prefix(cache, mask, mask.sum(1), engine.logits(hidden[:, -1]))


@torch.inference_mode()
def generate(
    engine: Engine, prefix: Prefix, limits: Sequence[int], stopped: Callable[[list[int]], bool] | None = None
) -> list[Generated]:
    """Generate greedily after each prompt; finished rows leave the batch. The prefix's cache is used up.

    Parameters
    ----------
    limits
        New tokens allowed, a row.
    stopped
        Whether an answer's tokens so far hold a stop string.
    """
    answers = [Generated() for _ in limits]
    rows = list(range(len(limits)))
    mask, positions, logits = prefix.mask, prefix.lengths, prefix.logits
    while True:
        best = logits.log_softmax(-1).topk(2)  # (rows, 2)
        tokens = best.indices[:, 0]
        alive = [
            place
            for place, (row, token, (first, second)) in enumerate(
                zip(rows, tokens.tolist(), best.values.tolist(), strict=True)
            )
            if _extend(answers[row], token, first, second, engine.end_ids, limits[row], stopped)
        ]
        if not alive:
            return answers
        if len(alive) < len(rows):
            kept = torch.tensor(alive, device=engine.device)
            rows = [rows[place] for place in alive]
            tokens, mask, positions = tokens[kept], mask[kept], positions[kept]
            prefix.cache.batch_select_indices(kept)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        hidden = engine.language_model(
            inputs_embeds=engine.model.get_input_embeddings()(tokens[:, None]),
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=prefix.cache,
            use_cache=True,
        ).last_hidden_state  # (rows, 1, hidden)
        logits, positions = engine.logits(hidden[:, -1]), positions + 1


def _extend(
    answer: Generated,
    token: int,
    logprob: float,
    runner_up: float,
    end_ids: frozenset[int],
    limit: int,
    stopped: Callable[[list[int]], bool] | None,
) -> bool:
    """Add one token to an answer; return whether it goes on."""
    answer.token_count += 1
    answer.logprob += logprob
    answer.near_ties += logprob - runner_up < NEAR_TIE
    if token in end_ids:
        return False
    answer.token_ids.append(token)
    if stopped is not None and stopped(answer.token_ids):
        return False
    answer.truncated = answer.token_count >= limit
    return not answer.truncated

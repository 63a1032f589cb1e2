"""Batched greedy generation over a shared prefix, with the log-probabilities of what was generated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vlm_backbones.model_wrappers._engine import Engine

__all__ = ["Branches", "Generated", "Prefix", "Prompt", "embed", "generate", "left_padded", "prefill"]

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
    branch_logits
        (batch, width, vocabulary), float32: what follows each token of the branches; None without branches.
    """

    cache: Any
    mask: torch.Tensor
    lengths: torch.Tensor
    logits: torch.Tensor
    branch_logits: torch.Tensor | None = None

    def logits_after(self) -> torch.Tensor:
        """Return (batch, 1 + width, vocabulary): what follows the prompt, then what follows each branch token."""
        prompt = self.logits[:, None]
        return prompt if self.branch_logits is None else torch.cat([prompt, self.branch_logits], dim=1)


@dataclass(frozen=True)
class Branches:
    """Tokens behind the prompts that are run along and then forgotten: several continuations of each prompt.

    Attributes
    ----------
    ids, offsets
        (batch, width): token ids, and their distances from the end of the prompt.
    sees
        (batch, width, width): which branch tokens each one attends to, itself included.
    """

    ids: torch.Tensor
    offsets: torch.Tensor
    sees: torch.Tensor


@dataclass
class Generated:
    """One greedy answer: token ids without the end of turn, and how it ended."""

    token_ids: list[int] = field(default_factory=list)
    token_count: int = 0
    logprob: float = 0.0
    truncated: bool = False
    near_ties: int = 0


@dataclass(frozen=True)
class Prompt:
    """One prompt for `prefill`.

    Attributes
    ----------
    token_ids
        With every image token repeated as often as its image has features.
    image_keys
        Names of the images, in the order in which the prompt holds them.
    """

    token_ids: Sequence[int]
    image_keys: Sequence[str]


@torch.inference_mode()
def prefill(
    engine: Engine,
    prompts: Sequence[Prompt],
    features: Mapping[str, torch.Tensor],
    image_token_id: int,
    branches: Branches | None = None,
) -> Prefix:
    """Run the prompts of one batch; what questions about one image share is run once.

    Parameters
    ----------
    features
        Image key -> (image_tokens, hidden).
    branches
        Continuations to run in the same pass; the cache keeps the prompts alone.
    """
    from transformers import DynamicCache

    cache = DynamicCache()
    heads, head_of_row, cuts = _shared_heads(prompts, image_token_id)
    if 2 * len(heads) > len(prompts):
        ids, mask = left_padded([prompt.token_ids for prompt in prompts], engine.device)
        keys = [prompt.image_keys for prompt in prompts]
    else:
        ids, head_mask = left_padded([head.token_ids for head in heads], engine.device)
        keys = [head.image_keys for head in heads]
        _forward(engine, embed(engine, ids, head_mask, keys, features, image_token_id), head_mask, cache, read=0)
        rows = torch.tensor(head_of_row, device=engine.device)
        cache.batch_select_indices(rows)
        tails = [prompt.token_ids[cut:] for prompt, cut in zip(prompts, cuts, strict=True)]
        ids, tail_mask = left_padded(tails, engine.device)
        mask, keys = torch.cat([head_mask[rows], tail_mask], dim=1), []
    embeddings = embed(engine, ids, mask[:, -ids.shape[1] :], keys, features, image_token_id)
    if branches is None:
        hidden = _forward(engine, embeddings, mask, cache)  # (batch, 1, hidden)
        return Prefix(cache, mask, mask.sum(1), engine.logits(hidden[:, -1]))
    hidden = _forward_with_branches(engine, embeddings, mask, cache, branches)  # (batch, 1 + width, hidden)
    return Prefix(cache, mask, mask.sum(1), engine.logits(hidden[:, 0]), engine.logits(hidden[:, 1:]))


def _shared_heads(prompts: Sequence[Prompt], image_token_id: int) -> tuple[list[Prompt], list[int], list[int]]:
    """Return the distinct beginnings up to the last image, each row's place among them, and where each row's ends."""
    places: dict[tuple[tuple[int, ...], tuple[str, ...]], int] = {}
    head_of_row, cuts = [], []
    for prompt in prompts:
        last = max((place for place, token in enumerate(prompt.token_ids) if token == image_token_id), default=-1)
        # A row's last token always stays behind: its logits begin the answer.
        cut = min(last + 1, len(prompt.token_ids) - 1)
        key = (tuple(prompt.token_ids[:cut]), tuple(prompt.image_keys))
        head_of_row.append(places.setdefault(key, len(places)))
        cuts.append(cut)
    heads = [Prompt(ids, keys) for ids, keys in places]
    # Nothing is shared where a row has no image: an empty beginning cannot be run.
    return (heads if all(head.token_ids for head in heads) else list(prompts)), head_of_row, cuts


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask, (rows, longest)."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids.to(device), mask.to(device)


def embed(
    engine: Engine,
    ids: torch.Tensor,
    mask: torch.Tensor,
    keys: Sequence[Sequence[str]],
    features: Mapping[str, torch.Tensor],
    image_token_id: int,
) -> torch.Tensor:
    """Return (rows, length, hidden) with the images' features in their places."""
    is_image = (ids == image_token_id) & mask.bool()
    # The image token has no embedding of its own in some backbones; what stands there is overwritten.
    embeddings: torch.Tensor = engine.model.get_input_embeddings()(ids.masked_fill(is_image, 0))
    ordered = [features[key] for row in keys for key in row]
    if ordered:
        embeddings[is_image] = torch.cat(ordered).to(embeddings.dtype)
    return embeddings


def _forward(engine: Engine, embeddings: torch.Tensor, mask: torch.Tensor, cache: Any, read: int = 1) -> torch.Tensor:
    """Run the backbone on new positions behind the cache; return the last ones, (rows, read, hidden)."""
    new, length = embeddings.shape[1], mask.shape[1]
    visible = mask.bool()[:, None].expand(-1, new, -1)  # (rows, new, length)
    if new > 1:
        visible = visible & torch.ones(new, length, dtype=torch.bool, device=mask.device).tril_(length - new)
    positions = (mask.cumsum(1) - 1).clamp_(min=0)[:, -new:] if new > 1 else mask.sum(1, keepdim=True) - 1
    return engine.backbone(embeddings, visible, positions, cache, read)


def _forward_with_branches(
    engine: Engine, embeddings: torch.Tensor, mask: torch.Tensor, cache: Any, branches: Branches
) -> torch.Tensor:
    """Run new prompt positions and, behind them, the branches: each sees its prompt and itself.

    Returns
    -------
    (batch, 1 + width, hidden): of the prompt's last position and of the branches.
    """
    batch, length = mask.shape
    new, width = embeddings.shape[1], branches.ids.shape[1]
    tokens = mask.bool()[:, None]  # (batch, 1, length)
    visible = torch.zeros(batch, new + width, length + width, dtype=torch.bool, device=mask.device)
    visible[:, :new, :length] = tokens & torch.ones_like(visible[0, :new, :length]).tril_(length - new)
    visible[:, new:, :length] = tokens
    visible[:, new:, length:] = branches.sees
    both = torch.cat([embeddings, engine.model.get_input_embeddings()(branches.ids)], dim=1)
    prompt_positions = (mask.cumsum(1) - 1).clamp_(min=0)[:, -new:]
    positions = torch.cat([prompt_positions, mask.sum(1, keepdim=True) + branches.offsets], dim=1)
    hidden = engine.backbone(both, visible, positions, cache, 1 + width)
    cache.crop(-width)
    return hidden


@torch.inference_mode()
def generate(
    engine: Engine,
    prefix: Prefix,
    limits: Sequence[int],
    stopped: Callable[[list[int]], bool] | None = None,
    drafts: Sequence[Sequence[Sequence[int]]] = (),
) -> list[Generated]:
    """Generate greedily after each prompt; finished rows leave the batch. The prefix's cache is used up.

    Parameters
    ----------
    limits
        New tokens allowed, a row.
    stopped
        Whether an answer's tokens so far hold a stop string.
    drafts
        The options that the prefix's branches hold, a row: an answer that keeps to one of them has been computed.
    """
    drafted = _follow_drafts(engine, prefix, limits, stopped, drafts) if drafts else [None] * len(limits)
    answers = [Generated() if answer is None else answer for answer in drafted]
    rows = [row for row, answer in enumerate(drafted) if answer is None]
    mask, logits = prefix.mask, prefix.logits
    if rows and len(rows) < len(answers):
        kept = torch.tensor(rows, device=engine.device)
        mask, logits = mask[kept], logits[kept]
        prefix.cache.batch_select_indices(kept)
    while rows:
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
            break
        if len(alive) < len(rows):
            kept = torch.tensor(alive, device=engine.device)
            rows = [rows[place] for place in alive]
            tokens, mask = tokens[kept], mask[kept]
            prefix.cache.batch_select_indices(kept)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        hidden = _forward(engine, engine.model.get_input_embeddings()(tokens[:, None]), mask, prefix.cache)
        logits = engine.logits(hidden[:, -1])
    return answers


def _follow_drafts(
    engine: Engine,
    prefix: Prefix,
    limits: Sequence[int],
    stopped: Callable[[list[int]], bool] | None,
    drafts: Sequence[Sequence[Sequence[int]]],
) -> list[Generated | None]:
    """Return each row's whole answer where it keeps to one of its drafts to the end, else None."""
    best = prefix.logits_after().log_softmax(-1).topk(2)  # (batch, 1 + width, 2)
    values, indices = best.values.tolist(), best.indices[..., 0].tolist()
    found: list[Generated | None] = []
    for row, limit in enumerate(limits):
        answer, place = Generated(), 0
        while True:
            first, second = values[row][place]
            if not _extend(answer, indices[row][place], first, second, engine.end_ids, limit, stopped):
                found.append(answer)
                break
            place = _place_after(drafts[row], answer.token_ids)
            if place == 0:
                found.append(None)
                break
    return found


def _place_after(drafts: Sequence[Sequence[int]], token_ids: list[int]) -> int:
    """Return where `logits_after` continues these tokens; 0 where no draft has fed them."""
    start, count = 1, len(token_ids)
    for draft in drafts:
        if count < len(draft) and list(draft[:count]) == token_ids:
            return start + count - 1
        start += len(draft) - 1
    return 0


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

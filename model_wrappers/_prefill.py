"""The prompts of one batch through the backbone, with what questions about one image share run once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlm_backbones.model_wrappers._cache import build_cache
from vlm_backbones.model_wrappers._engine import Engine

__all__ = ["Branches", "Prefix", "Prompt", "embed", "left_padded", "prefill"]


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
        (batch, 1 + width, vocabulary), float32: what follows each prompt, then what follows each token of its branches.
    """

    cache: Any
    mask: torch.Tensor
    lengths: torch.Tensor
    logits: torch.Tensor


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
    cache = build_cache()
    heads, head_of_row, cuts = _shared_heads(prompts, engine.image_token_id)
    if 2 * len(heads) > len(prompts):
        ids, mask = left_padded([prompt.token_ids for prompt in prompts], engine.device)
        keys = [prompt.image_keys for prompt in prompts]
        plain = _same_length(prompts)
    else:
        ids, head_mask = left_padded([head.token_ids for head in heads], engine.device)
        keys = [head.image_keys for head in heads]
        embeddings = embed(engine, ids, head_mask, keys, features)
        _forward(engine, embeddings, head_mask, cache, read=0, plain=_same_length(heads))
        rows = torch.tensor(head_of_row, device=engine.device)
        cache.batch_select_indices(rows)
        tails = [prompt.token_ids[cut:] for prompt, cut in zip(prompts, cuts, strict=True)]
        ids, tail_mask = left_padded(tails, engine.device)
        mask, keys, plain = torch.cat([head_mask[rows], tail_mask], dim=1), [], False
    lengths = mask.sum(1)
    embeddings = embed(engine, ids, mask[:, -ids.shape[1] :], keys, features)
    if branches is None:
        hidden = _forward(engine, embeddings, mask, cache, read=1, plain=plain)  # (batch, 1, hidden)
    else:
        hidden = _forward_with_branches(engine, embeddings, mask, cache, branches)  # (batch, 1 + width, hidden)
    return Prefix(cache, mask, lengths, engine.logits(hidden))


def _same_length(prompts: Sequence[Prompt]) -> bool:
    return len({len(prompt.token_ids) for prompt in prompts}) == 1


def _shared_heads(prompts: Sequence[Prompt], image_token_id: int) -> tuple[list[Prompt], list[int], list[int]]:
    """Return the distinct beginnings up to the last image, each row's place among them, and where each row's ends."""
    places: dict[tuple[tuple[int, ...], tuple[str, ...]], int] = {}
    head_of_row, cuts = [], []
    for prompt in prompts:
        ids = prompt.token_ids
        cut = len(ids) - ids[::-1].index(image_token_id) if image_token_id in ids else 0
        key = (tuple(ids[:cut]), tuple(prompt.image_keys))
        head_of_row.append(places.setdefault(key, len(places)))
        cuts.append(cut)
    heads = [Prompt(ids, keys) for ids, keys in places]
    # Nothing is shared where a row has no image, for an empty beginning cannot be run, or ends in one: the last token
    # stays behind, since its logits begin the answer.
    shares = all(0 < cut < len(prompt.token_ids) for cut, prompt in zip(cuts, prompts, strict=True))
    return (heads if shares else list(prompts)), head_of_row, cuts


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
) -> torch.Tensor:
    """Return (rows, length, hidden) with the images' features in their places."""
    is_image = (ids == engine.image_token_id) & mask.bool()
    # The image token has no embedding of its own in some backbones; what stands there is overwritten.
    embeddings: torch.Tensor = engine.model.get_input_embeddings()(ids.masked_fill(is_image, 0))
    ordered = [features[key] for row in keys for key in row]
    if ordered:
        embeddings[is_image] = torch.cat(ordered).to(embeddings.dtype)
    return embeddings


def _forward(
    engine: Engine, embeddings: torch.Tensor, mask: torch.Tensor, cache: Any, *, read: int, plain: bool
) -> torch.Tensor:
    """Run the backbone on new positions behind the cache; return the last ones, (rows, read, hidden).

    `plain` rows have no padding and nothing in the cache.
    """
    new, length = embeddings.shape[1], mask.shape[1]
    positions = (mask.cumsum(1) - 1).clamp_(min=0)[:, -new:]
    if plain:
        return engine.backbone(embeddings, None, positions, cache, read)
    causal = torch.ones(new, length, dtype=torch.bool, device=mask.device).tril_(length - new)
    return engine.backbone(embeddings, mask.bool()[:, None] & causal, positions, cache, read)


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

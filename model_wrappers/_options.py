"""Log-probabilities of given answers after a prompt, all options of a batch in one pass over the shared prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vlm_backbones.model_wrappers._engine import Engine
from vlm_backbones.model_wrappers._generation import Prefix

__all__ = ["OptionScore", "score_options"]


@dataclass(frozen=True)
class OptionScore:
    """Summed log-probability of one option's tokens, and whether greedy decoding would have given them."""

    logprob: float
    greedy: bool


@torch.inference_mode()
def score_options(
    engine: Engine, prefix: Prefix, options: Sequence[Sequence[Sequence[int]]]
) -> list[list[OptionScore]]:
    """Score each row's options against the row's prompt; the prefix stays as it was.

    The options of a row stand one after the other behind its prompt; the mask lets each see the prompt and itself, and
    their positions all start where the prompt ends. So the prompt's keys and values are neither computed nor copied
    again. An option's last token is never fed: nothing depends on it.

    Parameters
    ----------
    options
        (rows)(options)(tokens): token ids, one or more an option.
    """
    first = prefix.logits.log_softmax(-1)  # (batch, vocabulary)
    width = max((sum(len(option) - 1 for option in row) for row in options), default=0)
    later = _later_logprobs(engine, prefix, options, width).log_softmax(-1) if width else None
    return [
        _score_row(row, first[index], later[index] if later is not None else None) for index, row in enumerate(options)
    ]


def _score_row(row: Sequence[Sequence[int]], first: torch.Tensor, later: torch.Tensor | None) -> list[OptionScore]:
    scores, start = [], 0
    for option in row:
        fed = len(option) - 1
        table = first[None] if later is None or fed == 0 else torch.cat([first[None], later[start : start + fed]])
        tokens = torch.tensor(list(option), device=first.device)  # table: (tokens, vocabulary)
        chosen = table.gather(1, tokens[:, None])[:, 0]
        scores.append(OptionScore(float(chosen.double().sum()), bool((table.argmax(1) == tokens).all())))
        start += fed
    return scores


def _later_logprobs(
    engine: Engine, prefix: Prefix, options: Sequence[Sequence[Sequence[int]]], width: int
) -> torch.Tensor:
    """Return the logits after each fed token: (batch, width, vocabulary)."""
    batch, length = prefix.mask.shape
    ids = torch.zeros(batch, width, dtype=torch.long)
    offsets = torch.zeros(batch, width, dtype=torch.long)
    # A padded place sees itself alone, so that no row of the attention is empty.
    sees = torch.eye(width, dtype=torch.bool).repeat(batch, 1, 1)
    for index, row in enumerate(options):
        start = 0
        for option in row:
            end = start + len(option) - 1
            ids[index, start:end] = torch.tensor(option[:-1], dtype=torch.long)
            offsets[index, start:end] = torch.arange(end - start)
            sees[index, start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
            start = end
    embeddings = engine.model.get_input_embeddings()(ids.to(engine.device))
    sees_prompt = prefix.mask.bool()[:, None].expand(batch, width, length)
    visible = torch.cat([sees_prompt, sees.to(engine.device)], dim=-1)[:, None]  # (batch, 1, width, length + width)
    lowest = torch.finfo(embeddings.dtype).min
    mask = torch.zeros(visible.shape, dtype=embeddings.dtype, device=engine.device).masked_fill(~visible, lowest)
    hidden = engine.language_model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=prefix.lengths[:, None] + offsets.to(engine.device),
        past_key_values=prefix.cache,
        use_cache=True,
    ).last_hidden_state  # (batch, width, hidden)
    prefix.cache.crop(-width)
    return engine.logits(hidden)

"""Pretrain a pocket backbone: a small LLaMA-architecture LLM on text alone.

Packing is leak-free: every turn of a passage sees the facts and itself only, never another turn's answer,
so the model has to read the facts instead of copying from earlier answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vlm_backbones.pocket.make.corpus import Passage, sample_passage
from vlm_backbones.pocket.make.progress import Checkpointer, cosine_lr
from vlm_backbones.pocket.make.vocabulary import ChatFormat, build_tokenizer

__all__ = ["BackbonePlan", "pretrain_backbone"]

_IGNORED = -100


@dataclass(frozen=True)
class BackbonePlan:
    """What makes one pocket backbone: tokenizer, shape, and how long it is pretrained."""

    name: str
    chat: ChatFormat
    vocabulary: int
    digits_grouped: bool
    context_tokens: int
    mlp: int
    kv_heads: int
    rope_theta: float
    phases: tuple[tuple[str, int], ...]
    """What kind of passages for how many steps; the learning rate warms up anew in each."""
    seed: int
    batch: int = 8
    learning_rate: float = 2.5e-3
    vocabulary_passages: int = 4000

    def as_row(self) -> dict[str, object]:
        """Return the plan without the chat format's text, for the manifest."""
        return {name: value for name, value in asdict(self).items() if name != "chat"}


@dataclass(frozen=True)
class _Packed:
    """A batch of passages: ids, positions, segments (0 facts, k the k-th turn, -1 padding), targets, weights."""

    ids: Tensor  # (batch, tokens)
    positions: Tensor
    segments: Tensor
    targets: Tensor
    weights: Tensor


def _pack(passages: list[Passage], chat: ChatFormat, tokenizer: PreTrainedTokenizerFast, context: int) -> _Packed:
    def encode(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []  # type: ignore[no-any-return]

    rows: list[list[list[float]]] = []
    facts = encode([chat.before_question + passage.facts + "\n" for passage in passages])
    for passage, prefix in zip(passages, facts, strict=True):
        questions = encode([question + chat.before_answer for question, _ in passage.turns])
        answers = encode([chat.answer_lead + answer + chat.end_of_turn for _, answer in passage.turns])
        row: list[list[float]] = [[token, at, 0, _IGNORED, 0.0] for at, token in enumerate(prefix)]
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True), start=1):
            tokens = question + answer
            if len(prefix) + len(tokens) > context:
                continue
            targets = [*[_IGNORED] * (len(question) - 1), *answer, _IGNORED]
            weight = len(answer) ** -0.5
            for at, token in enumerate(tokens):
                row.append([token, len(prefix) + at, number, targets[at], weight])
        rows.append(row)
    longest = max(len(row) for row in rows)
    padding = [tokenizer.pad_token_id, 0, -1, _IGNORED, 0.0]
    table = torch.tensor([row + [padding] * (longest - len(row)) for row in rows], dtype=torch.float64)
    ids, positions, segments, wanted = table[..., :4].long().unbind(-1)
    return _Packed(ids, positions, segments, wanted, table[..., 4].float())


def _visible(segments: Tensor) -> Tensor:
    """Return the additive attention mask (batch, 1, tokens, tokens): causal, within a turn or onto the facts."""
    tokens = segments.shape[1]
    rows, columns = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    seen = causal & ((columns == 0) | (columns == rows))
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]


def _build_model(plan: BackbonePlan, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=plan.mlp, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=plan.kv_heads, max_position_embeddings=plan.context_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": plan.rope_theta}, tie_word_embeddings=True,
        initializer_range=0.08, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")  # on these short rows faster than sdpa in bfloat16
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model


def _step(model: LlamaForCausalLM, packed: _Packed) -> tuple[Tensor, float]:
    """Return the weighted loss, and the share of answer tokens that are predicted right."""
    supervised = packed.targets != _IGNORED
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(
            input_ids=packed.ids, attention_mask=_visible(packed.segments), position_ids=packed.positions,
            use_cache=False,
        ).last_hidden_state  # fmt: skip
        logits = model.lm_head(hidden[supervised])  # (supervised tokens, vocabulary)
    targets, weights = packed.targets[supervised], packed.weights[supervised]
    losses = functional.cross_entropy(logits.float(), targets, reduction="none")
    right = (logits.argmax(-1) == targets).float().mean()
    return (losses * weights).sum() / weights.sum(), float(right)


def _phase_at(plan: BackbonePlan, step: int) -> tuple[str, float]:
    """Return the kind of passages and the learning rate of a step."""
    for phase, steps in plan.phases:
        if step < steps:
            return phase, cosine_lr(step, steps, plan.learning_rate, warmup=100)
        step -= steps
    raise ValueError(f"step {step} lies behind the last phase")


def pretrain_backbone(plan: BackbonePlan, out: Path, work: Path, say: Callable[[str], None]) -> dict[str, object]:
    """Pretrain, or resume from `work`, and write model (float16) and tokenizer in transformers' format to `out`."""
    tokenizer = build_tokenizer(
        plan.chat, vocabulary=plan.vocabulary, digits_grouped=plan.digits_grouped,
        context_tokens=plan.context_tokens, texts=plan.vocabulary_passages,
    )  # fmt: skip
    torch.manual_seed(plan.seed)
    model = _build_model(plan, tokenizer)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        lr=plan.learning_rate, betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    counter = nn.Module()
    counter.register_buffer("tokens", torch.zeros(1, dtype=torch.int64))
    saved = Checkpointer(work / f"{plan.name}.pt", {"model": model, "optimizer": optimizer, "counter": counter})
    tokens_seen: Tensor = counter.tokens  # type: ignore[assignment]
    right = 0.0
    steps = sum(count for _, count in plan.phases)
    for step in range(saved.resume(), steps):
        rng, seen = np.random.default_rng([plan.seed, step]), Counter[tuple[str, str]]()
        phase, learning_rate = _phase_at(plan, step)
        passages = [sample_passage(seen, rng, phase=phase) for _ in range(plan.batch)]
        packed = _pack(passages, plan.chat, tokenizer, plan.context_tokens)
        loss, accuracy = _step(model, packed)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        tokens_seen += int((packed.segments >= 0).sum())
        right = 0.98 * right + 0.02 * accuracy
        if step % 100 == 0:
            say(f"{plan.name} step {step}/{steps} loss {float(loss.detach()):.4f} answer tokens right {right:.3f}")
        saved.save_every(step + 1, 500)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {**plan.as_row(), "tokens_seen": int(tokens_seen), "answer_tokens_right": round(right, 4)}

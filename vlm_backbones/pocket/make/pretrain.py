"""Pretrain a pocket backbone: a small LLaMA-architecture LLM on text alone.

Packing is leak-free: every turn of a passage sees the facts and itself only, never another turn's answer,
so the model has to read the facts instead of copying from earlier answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vlm_backbones.data.collation import collate
from vlm_backbones.data.packed_attention import use_packed_attention
from vlm_backbones.data.packing import PackedExample
from vlm_backbones.pocket.make.corpus import Passage, sample_passage
from vlm_backbones.pocket.make.progress import Checkpointer, cosine_lr
from vlm_backbones.pocket.make.vocabulary import ChatFormat, build_tokenizer

__all__ = ["BackbonePlan", "pretrain_backbone"]


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
    steps: int
    place_steps: int
    """Steps of the second stage, in which most questions ask where things are; the learning rate warms up anew."""
    seed: int
    batch: int = 8
    learning_rate: float = 1.5e-3
    vocabulary_passages: int = 4000

    def as_row(self) -> dict[str, object]:
        """Return the plan without the chat format's text, for the manifest."""
        return {name: value for name, value in asdict(self).items() if name != "chat"}


@dataclass(frozen=True)
class _Batch:
    """One flat row of passages."""

    words: Tensor  # (tokens, words a position): token ids, padded; more than one only in a table's cell
    packed: dict[str, Any]
    """As `collate` returns it; its input_ids hold each position's first word only."""


def _pack(passages: list[Passage], chat: ChatFormat, tokenizer: PreTrainedTokenizerFast, context: int) -> _Batch:
    def encode(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []  # type: ignore[no-any-return]

    words: list[list[int]] = []
    examples = []
    for passage in passages:
        before, after = encode([chat.before_question + passage.facts, "\n"])
        cells = [[token for ids in encode(list(cell)) for token in ids] for cell in passage.table]
        prefix = [*([token] for token in before), *cells, *([token] for token in after)]
        questions = encode([question + chat.before_answer for question, _ in passage.turns])
        answers = encode([chat.answer_lead + answer + chat.end_of_turn for _, answer in passage.turns])
        example = _PackedTurns(len(prefix))
        for question, answer in zip(questions, answers, strict=True):
            if len(prefix) + len(question) + len(answer) <= context:
                example.add(question, answer)
        words += prefix + [[token] for token in example.tokens]
        examples.append(example.finish([cell[0] for cell in prefix]))
    most = max(len(at) for at in words)
    padded = torch.tensor([at + [tokenizer.pad_token_id] * (most - len(at)) for at in words])
    return _Batch(padded, collate(examples, weighting="inverse_sqrt_length"))


class _PackedTurns:
    """Collects the turns behind a prefix of `start` tokens."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.tokens: list[int] = []
        self.positions = list(range(start))
        self.lengths = [start]
        self.predict_at: list[int] = []
        self.targets: list[int] = []
        self.sizes: list[int] = []

    def add(self, question: list[int], answer: list[int]) -> None:
        first = self.start + len(self.tokens) + len(question) - 1
        self.tokens += question + answer
        self.positions += range(self.start, self.start + len(question) + len(answer))
        self.lengths.append(len(question) + len(answer))
        self.predict_at += range(first, first + len(answer))
        self.targets += answer
        self.sizes += [len(answer)] * len(answer)

    def finish(self, prefix: list[int]) -> PackedExample:
        ids, positions, predict_at, targets, sizes = (
            np.asarray(values, dtype=np.int64)
            for values in (prefix + self.tokens, self.positions, self.predict_at, self.targets, self.sizes)
        )
        return PackedExample(
            ids, positions, tuple(self.lengths), predict_at, targets, sizes, has_image=False, cut_turns=()
        )


def _build_model(plan: BackbonePlan, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=plan.mlp, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=plan.kv_heads, max_position_embeddings=plan.context_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": plan.rope_theta}, tie_word_embeddings=True,
        initializer_range=0.08, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:  # small at first: what a position holds is not drowned by untrained layers
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            nn.init.normal_(projection.weight, std=0.01)
    use_packed_attention(model)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model


def _embed(model: LlamaForCausalLM, words: Tensor) -> Tensor:
    """Return (tokens, hidden): the sum of each position's words over the root of their number."""
    present = words.ne(model.config.pad_token_id or 0).unsqueeze(-1)
    summed = (model.get_input_embeddings()(words) * present).sum(1)
    scaled: Tensor = summed * present.sum(1) ** -0.5
    return scaled


def _step(model: LlamaForCausalLM, batch: _Batch) -> tuple[Tensor, float]:
    """Return the weighted loss, and the share of answer tokens that are predicted right."""
    packed = batch.packed
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(
            inputs_embeds=_embed(model, batch.words)[None],
            position_ids=packed["position_ids"], layout=packed["layout"], use_cache=False,
        ).last_hidden_state[0]  # fmt: skip
        logits = model.lm_head(hidden[packed["predict_at"]])  # (supervised tokens, vocabulary)
    targets, weights = packed["labels"], packed["weights"]
    losses = functional.cross_entropy(logits.float(), targets, reduction="none")
    right = (logits.argmax(-1) == targets).float().mean()
    return (losses * weights).sum() / weights.sum(), float(right)


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
    total = plan.steps + plan.place_steps
    for step in range(saved.resume(), total):
        rng, seen = np.random.default_rng([plan.seed, step]), Counter[tuple[str, str]]()
        in_stage, stage_steps = (step, plan.steps) if step < plan.steps else (step - plan.steps, plan.place_steps)
        learning_rate = cosine_lr(in_stage, stage_steps, plan.learning_rate, warmup=100)
        passages = [sample_passage(seen, rng, progress=step / plan.steps) for _ in range(plan.batch)]
        batch = _pack(passages, plan.chat, tokenizer, plan.context_tokens)
        loss, accuracy = _step(model, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        tokens_seen += len(batch.words)
        right = 0.98 * right + 0.02 * accuracy
        if step % 100 == 0:
            say(f"{plan.name} step {step}/{total} loss {float(loss.detach()):.4f} answer tokens right {right:.3f}")
        saved.save_every(step + 1, 500)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {**plan.as_row(), "tokens_seen": int(tokens_seen), "answer_tokens_right": round(right, 4)}

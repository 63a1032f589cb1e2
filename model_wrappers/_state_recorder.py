"""Run answered documents once more, whole, and keep what each kind of token looks like inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vlm_backbones.model_wrappers._engine import Engine
from vlm_backbones.model_wrappers._prefill import embed, left_padded
from vlm_backbones.model_wrappers._random_weights import random_weights
from vlm_backbones.model_wrappers._requests import Job
from vlm_backbones.model_wrappers._states import (
    RANDOM_WEIGHTS,
    DocumentStates,
    StateFolder,
    StatePlan,
    choose_documents,
    pool,
)

__all__ = ["StateRecorder", "Told"]


@dataclass(frozen=True)
class Told:
    """One answered document as the backbone sees it.

    Attributes
    ----------
    prompt
        Token ids with every image token repeated as often as its image has features.
    question
        Which of them are the question's own words.
    answer
        Token ids without the end of turn.
    """

    job: Job
    doc_key: str
    prompt: Sequence[int]
    question: Sequence[bool]
    answer: Sequence[int]
    image_keys: Sequence[str]


class StateRecorder:
    """Records the chosen documents of one evaluation, under one condition."""

    def __init__(self, engine: Engine, plan: StatePlan, jobs: Sequence[Job], condition: str, rank: int) -> None:
        self.engine, self.plan = engine, plan
        self.layers = plan.layer_numbers(len(engine.model.model.language_model.layers))
        self._chosen = choose_documents(jobs, plan.subset)
        header = {"checkpoint": engine.fingerprint, "layers": self.layers, "token_types": list(plan.token_types)}
        self._folder = StateFolder(plan.folder, rank, header | {"condition": condition})
        self._control = plan.control and StateFolder(plan.control, rank, header | {"condition": RANDOM_WEIGHTS})

    def wants(self, job: Job) -> bool:
        """Return whether this document's states are kept."""
        return job.doc_id in self._chosen[job.task]

    @torch.inference_mode()
    def record(self, rows: Sequence[Told], features: Mapping[str, torch.Tensor]) -> None:
        """Pool and keep the states of some answered documents; image key -> (image_tokens, hidden)."""
        if not rows:
            return
        ids, mask = left_padded([[*row.prompt, *row.answer] for row in rows], self.engine.device)
        members = self._members(rows, ids.shape[1]).to(self.engine.device)
        self._keep(self._folder, rows, ids, mask, members, features)
        if self._control:
            with random_weights(self.engine.model.model.language_model):
                self._keep(self._control, rows, ids, mask, members, features)

    def close(self) -> None:
        """Write what is left."""
        self._folder.close()
        if self._control:
            self._control.close()

    def _keep(
        self,
        folder: StateFolder,
        rows: Sequence[Told],
        ids: torch.Tensor,
        mask: torch.Tensor,
        members: torch.Tensor,
        features: Mapping[str, torch.Tensor],
    ) -> None:
        embeddings = embed(self.engine, ids, mask, [row.image_keys for row in rows], features)
        hidden = self.engine.model.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp_(min=0),
            use_cache=False,
            output_hidden_states=True,
        ).hidden_states
        states, scales = pool(torch.stack([hidden[layer] for layer in self.layers]), members)
        for row, vectors, sizes in zip(rows, states, scales, strict=True):
            folder.add(DocumentStates(row.job.task, row.job.doc_id, row.doc_key, vectors, sizes))

    def _members(self, rows: Sequence[Told], length: int) -> torch.Tensor:
        """Return (rows, token_types, length), bool."""
        members = torch.zeros(len(rows), len(self.plan.token_types), length, dtype=torch.bool)
        for row, of_row in zip(rows, members, strict=True):
            start, end = length - len(row.prompt) - len(row.answer), length - len(row.answer)
            for kind, place in zip(self.plan.token_types, of_row, strict=True):
                if kind == "image_mean":
                    place[start:end] = torch.tensor(row.prompt) == self.engine.image_token_id
                elif kind == "question_mean":
                    place[start:end] = torch.tensor(row.question)
                elif kind == "answer_mean":
                    place[end:] = True
                else:
                    place[end - 1] = True
        return members

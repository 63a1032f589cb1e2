"""A loaded vision-language model with what generation needs to know about it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from vlm_backbones._hub import download_checkpoint
from vlm_backbones._seals import check_seal
from vlm_backbones.cache import read_last_study
from vlm_backbones.errors import CheckpointError, ConfigError
from vlm_backbones.model_wrappers._backbone import Backbone, LeanLlama, build_backbone
from vlm_backbones.model_wrappers._compiled import CompiledStep
from vlm_backbones.model_wrappers._greedy import ranked
from vlm_backbones.model_wrappers._room import Room, measure_room

__all__ = ["Engine", "checkpoint_dir", "load_engine", "pick_device"]

MAKE_ONE = "Run `vlm-backbones study run` to make one, or give --model_args pretrained=DIR."
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class Engine:
    """Model and processor in evaluation mode on one device.

    Attributes
    ----------
    backbone
        The language model's forward pass.
    fingerprint
        sha256 of the checkpoint's configuration and weights.
    end_ids
        Tokens that end a turn.
    max_tokens
        Longest sequence that the backbone takes; None where its configuration does not say.
    room
        What fits the device beside the model.
    compiled
        The compiled form of `next_tokens`; None where it is not compiled.
    """

    model: Any
    processor: Any
    backbone: Backbone
    fingerprint: str
    device: torch.device
    end_ids: frozenset[int]
    max_tokens: int | None
    room: Room
    compiled: CompiledStep | None = None

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @cached_property  # transformers' configuration takes its time to look a name up, and this is asked of every prompt
    def image_token_id(self) -> int:
        return int(self.model.config.image_token_id)

    @property
    def is_small_on_cpu(self) -> bool:
        """Whether several answers side by side use the cores better than one after the other with all of them."""
        return self.device.type == "cpu" and isinstance(self.backbone, LeanLlama)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 logits of hidden states, so that log-probabilities keep their digits in any dtype."""
        logits: torch.Tensor = self.model.lm_head(hidden)
        return logits.float()

    def next_tokens(
        self, tokens: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor, cache: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Feed one token a row behind the cache; return the best next ones and their log-probabilities as `ranked`.

        Parameters
        ----------
        tokens, positions
            (rows,): the tokens, and where they stand.
        visible
            (rows, positions of the cache with the new one), bool.
        """
        embeddings = self.model.get_input_embeddings()(tokens[:, None])
        hidden = self.backbone(embeddings, visible[:, None], positions[:, None], cache, 1)
        return ranked(self.logits(hidden))


def checkpoint_dir(pretrained: str | None) -> Path:
    """Return the checkpoint's folder: of a run, of a checkpoint, of a repository on the hub (OWNER/NAME, downloaded),
    or of the last study where nothing is named.

    Raises
    ------
    ConfigError
        If nothing is named and no study has been run.
    CheckpointError
        If the folder is no checkpoint, or the repository cannot be downloaded.
    """
    if pretrained is None:
        last = read_last_study()
        if last is None:
            raise ConfigError(f"no checkpoint is named and no study has been run yet. {MAKE_ONE}")
        note = f" ({last['note']})" if last.get("note") else ""
        print(
            f"backbone_vlm: using {last['backbone']} of the last study{note}: {last['checkpoint']}; "
            "--model_args pretrained=DIR takes another",
            flush=True,
        )
        pretrained = last["checkpoint"]
    folder = Path(pretrained).expanduser()
    if not folder.exists() and _REPOSITORY.fullmatch(pretrained):
        folder = download_checkpoint(pretrained)
    if (folder / "checkpoint" / "config.json").is_file():
        folder = folder / "checkpoint"
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"no checkpoint in {folder}: config.json is missing. {MAKE_ONE}")
    return folder.resolve()


def pick_device(device: str | None) -> torch.device:
    """Return the device named, else this process's GPU, else the CPU."""
    if device in (None, "", "auto"):
        index = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", index) if torch.cuda.is_available() else torch.device("cpu")
    if device == "cuda" and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(device)


def load_engine(folder: Path, *, device: torch.device, dtype: str | None = None, compiled: bool = False) -> Engine:
    """Load a checkpoint for evaluation; float32 on the CPU and the stored dtype elsewhere unless `dtype` says.

    Raises
    ------
    CheckpointError
        If it cannot be loaded, or is not what was written after training: other weights, prompt, pixels or stops.
    """
    from vlm_backbones.vlm import checkpoint_fingerprint, load
    from vlm_backbones.vlm.products import speed_linear_layers

    check_seal(folder)
    wanted = dtype or ("float32" if device.type == "cpu" else None)
    if wanted is not None and not isinstance(getattr(torch, wanted, None), torch.dtype):
        raise ConfigError(f"unknown dtype {wanted!r}. Known: float32, bfloat16, float16.")
    model, processor = load(folder, dtype=None if wanted is None else getattr(torch, wanted), device=device)
    model.requires_grad_(False)
    speed_linear_layers(model)
    return Engine(
        model=model,
        processor=processor,
        backbone=build_backbone(model.model.language_model, compiled=compiled),
        fingerprint=checkpoint_fingerprint(folder),
        device=device,
        end_ids=_end_ids(model, processor),
        max_tokens=getattr(model.config.text_config, "max_position_embeddings", None),
        room=measure_room(model, device, compiled=compiled),
        compiled=CompiledStep(Engine.next_tokens) if compiled else None,
    )


def _end_ids(model: Any, processor: Any) -> frozenset[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = set(configured if isinstance(configured, list | tuple) else [configured])
    ids.add(processor.tokenizer.eos_token_id)
    known = frozenset(int(token) for token in ids if token is not None)
    if not known:
        raise CheckpointError("the checkpoint names no end-of-turn token: set eos_token in its tokenizer.")
    return known

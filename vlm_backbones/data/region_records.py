"""ViP-LLaVA's region records: a row of its training files becomes a drawn picture and a conversation. No torch.

    image, messages = region_example(row, picture, record_generator(seed, row["id"], epoch), place="rows.json row 7")

What is random (shapes, colours, places, wording) comes from the generator alone: another epoch draws another example,
the same seed draws the same one again. Rows whose id has another prefix than `REGION_PREFIXES` are ordinary LLaVA rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from vlm_backbones.data._region_plans import PLANS, Plan
from vlm_backbones.data.visual_prompts import VisualPrompt, draw_prompts, sample_prompt
from vlm_backbones.errors import DataError

__all__ = [
    "REGION_PREFIXES",
    "RegionExample",
    "is_region_record",
    "record_generator",
    "region_conversation",
    "region_example",
]

REGION_PREFIXES = tuple(PLANS)
"""What stands before the first "-" of the ids of region records."""

_CONSTANT = frozenset({"v7w", "pointQA_twice"})


@dataclass(frozen=True)
class RegionExample:
    """A picture with its prompts drawn, and the messages as LLaVA JSON has them, `<image>` first."""

    image: Image.Image
    conversations: list[dict[str, str]]
    prompts: tuple[VisualPrompt, ...]


def is_region_record(row: Mapping[str, Any]) -> bool:
    """Whether a row of LLaVA JSON gets visual prompts."""
    return _prefix(row) in PLANS


def record_generator(seed: int, record_id: str, epoch: int = 0) -> np.random.Generator:
    """Return the generator of one record in one epoch; it depends on nothing else, so that order does not matter."""
    digest = hashlib.sha256(record_id.encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([seed, epoch, *np.frombuffer(digest, dtype=np.uint32).tolist()])


def region_example(
    row: Mapping[str, Any],
    image: Image.Image,
    rng: np.random.Generator,
    *,
    place: str | None = None,
    alpha: int | None = None,
    vcr_meta: Mapping[str, Any] | None = None,
) -> RegionExample:
    """Return a region record's drawn picture and conversation.

    Parameters
    ----------
    row
        A record of ViP-LLaVA's files; its fields are those of the published data, its boxes absolute pixels.
    image
        The record's picture at its original size: boxes are drawn as they are.
    rng
        As of `record_generator`.
    place
        File and row, for messages; default: the row's id.
    alpha
        Opacity of every prompt, as `EVALUATION_ALPHA`; left out, it is drawn.
    vcr_meta
        Of VCR records the content of the file that `meta_dir` names: `boxes` and `segms`.

    Raises
    ------
    DataError
        If the row is no region record, a field is missing or malformed, or a prompt cannot be drawn.

    Notes
    -----
    Unlike the published code, RefCOCOg's and Visual Genome's short answers are asked with the image in front, and a
    region without a mask never gets a point, which needs one.
    """
    where = place or f"record {row.get('id')!r}"
    plan = _plan(row, rng, where, vcr_meta)
    try:
        prompts = _prompts(plan, image.size, rng, alpha=alpha, constant=_prefix(row) in _CONSTANT)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return RegionExample(draw_prompts(image, prompts), _messages(plan.turns), prompts)


def region_conversation(
    row: Mapping[str, Any],
    rng: np.random.Generator,
    *,
    place: str | None = None,
    vcr_meta: Mapping[str, Any] | None = None,
) -> list[dict[str, str]]:
    """Return the messages that `region_example` gives with an equal generator, without a picture."""
    return _messages(_plan(row, rng, place or f"record {row.get('id')!r}", vcr_meta).turns)


def _prefix(row: Mapping[str, Any]) -> str:
    return str(row.get("id", "")).partition("-")[0]


def _plan(row: Mapping[str, Any], rng: np.random.Generator, where: str, vcr_meta: Mapping[str, Any] | None) -> Plan:
    if _prefix(row) not in PLANS:
        raise DataError(f"{where}: no region record. Expected an id that starts with {', '.join(REGION_PREFIXES)}.")
    try:
        return PLANS[_prefix(row)](row if vcr_meta is None else {**row, "meta": vcr_meta}, rng)
    except ValidationError as error:
        raise DataError(f"{where}: {'; '.join(_said(one) for one in error.errors())}.") from error
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _prompts(
    plan: Plan, size: tuple[int, int], rng: np.random.Generator, *, alpha: int | None, constant: bool
) -> tuple[VisualPrompt, ...]:
    return tuple(
        sample_prompt(region, size, rng, shape=mark.shape, color=mark.color, alpha=alpha, constant=constant)
        for region, mark in zip(plan.regions, plan.marks, strict=True)
    )


def _messages(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    texts = [text for turn in turns for text in turn]
    texts[0] = "<image>\n" + texts[0].replace("<image>", "").strip()
    return [{"from": "gpt" if index % 2 else "human", "value": text} for index, text in enumerate(texts)]


def _said(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"the field {name!r} is missing"
    return f"{name} is {str(error['input'])[:60]!r}: {str(error['msg']).removeprefix('Value error, ')}"

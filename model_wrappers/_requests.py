"""From lmms-eval's requests to documents: which question, which images, which settings, which keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageFile

from vlm_backbones.errors import ConfigError, DataError
from vlm_backbones.model_wrappers._conditions import paraphrased, perturbed, swap_partners
from vlm_backbones.model_wrappers._dataset_rows import DatasetRows
from vlm_backbones.model_wrappers._media import MediaFolder
from vlm_backbones.model_wrappers._record import doc_key, image_key
from vlm_backbones.pictures import to_rgb

__all__ = ["Document", "DocumentReader", "Job", "check_settings", "windows"]

DEFAULT_NEW_TOKENS = 1024
# What lmms-eval's own models read besides, and the values that leave an answer greedy.
GREEDY_SETTINGS = {"temperature": 0, "do_sample": False, "num_beams": 1, "repetition_penalty": 1}


@dataclass(frozen=True)
class Job:
    """One request, before its document is read. `settings` is what a batch must share, as JSON."""

    index: int
    context: str
    task: str
    split: str
    doc_id: int
    doc_to_visual: Callable[[Any], Any]
    settings: str

    @classmethod
    def from_arguments(cls, index: int, arguments: Sequence[Any]) -> Job:
        """Read the arguments of a `generate_until` instance; lmms-eval's own dictionary is never changed."""
        context, settings, doc_to_visual, doc_id, task, split = arguments
        return cls(
            index, context, task, split, doc_id, doc_to_visual, json.dumps(settings, sort_keys=True, default=str)
        )

    def setting(self, name: str, default: Any = None) -> Any:
        value = _settings(self.settings).get(name)
        return default if value is None else value

    @property
    def new_tokens(self) -> int:
        return int(self.setting("max_new_tokens", DEFAULT_NEW_TOKENS))

    @property
    def until(self) -> tuple[str, ...]:
        given = self.setting("until", [])
        return tuple(text for text in ([given] if isinstance(given, str) else given) if text)


@lru_cache(maxsize=256)
def _settings(text: str) -> dict[str, Any]:
    """Return settings from their JSON; read only, since the rows of a task share them."""
    return dict(json.loads(text))


def check_settings(jobs: Sequence[Job]) -> list[str]:
    """Return what the user must know of the tasks' generation settings: a line a task that asks for no greedy answers.

    Raises
    ------
    ConfigError
        If a task leaves an answer no token.
    """
    told = []
    for job in {(job.task, job.settings): job for job in jobs}.values():
        tokens = job.setting("max_new_tokens", DEFAULT_NEW_TOKENS)
        if not isinstance(tokens, int | float) or tokens < 1:
            raise ConfigError(f"task {job.task!r} has max_new_tokens: {tokens}; expected a whole number of 1 or more.")
        others = {name: job.setting(name, greedy) for name, greedy in GREEDY_SETTINGS.items()}
        if job.setting("temperature") == 0:
            others["do_sample"] = False  # lmms-eval samples by the temperature
        asked = [f"{name}: {value}" for name, value in others.items() if value != GREEDY_SETTINGS[name]]
        if asked:
            told.append(f"task {job.task!r} asks for {', '.join(asked)}; backbone_vlm answers greedily all the same.")
    return told


def windows(jobs: Sequence[Job], size: int) -> Iterator[list[Job]]:
    """Yield windows of requests that share task and settings, the longest question first, so that memory fails early.

    A window is a run of neighbours, so that questions about one image come together whatever their lengths, and its
    features are computed once. The first window is a short one, so that the model soon has work.
    """
    groups: dict[tuple[str, str, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.task, job.split, job.settings), []).append(job)
    for group in groups.values():
        neighbours = sorted(group, key=lambda job: job.index)
        runs = [neighbours[start : start + size] for start in range(0, len(neighbours), size)]
        first, *others = sorted(runs, key=lambda run: -max(len(job.context) for job in run))
        yield from (run for run in (first[: size // 4], first[size // 4 :], *others) if run)


@dataclass(frozen=True)
class Document:
    """One request with its document: the question and images to show, and the keys of the unperturbed ones."""

    job: Job
    row: Mapping[str, Any]
    context: str
    images: list[Image.Image]
    shown_keys: list[str]
    """Of each image as it is shown."""
    doc_key: str
    image_key: str | None
    condition: str


class DocumentReader:
    """Reads documents through lmms-eval's datasets and applies the condition."""

    def __init__(self, datasets: Mapping[str, Any], condition: str, media: MediaFolder | None) -> None:
        # lmms-eval lets Pillow fill truncated pictures with grey; here a broken picture is an error.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        self.rows = DatasetRows(datasets)
        self.condition = condition
        self.media = media
        self._partners: dict[tuple[str, str], dict[int, int]] = {}
        self._without_paraphrase: set[str] = set()

    def read(self, job: Job) -> Document:
        """Return a request's document.

        Raises
        ------
        DataError
            If the row or an image cannot be read; names task and row.
        """
        try:
            row = self.rows.read(job.task, job.split, job.doc_id)
            own = _images(job, row)
            key = image_key(own)
            if self.media is not None:
                self.media.write(key, own)
            condition = self._condition(job, row)
            shown = perturbed(self._swapped(job, own) if condition == "swap" else own, condition)
            is_own = len(own) == 1 and condition in ("clean", "paraphrase")
            keys = [key or ""] if is_own else [image_key([image]) or "" for image in shown]
            context = paraphrased(job.context, row) if condition == "paraphrase" else job.context
        except Exception as error:
            raise DataError(f"task {job.task!r}, split {job.split!r}, row {job.doc_id}: {error}") from error
        return Document(job, row, context, shown, keys, doc_key(job.task, job.context, key), key, condition)

    def _condition(self, job: Job, row: Mapping[str, Any]) -> str:
        if self.condition != "paraphrase" or "paraphrase" in row:
            return self.condition
        if job.task not in self._without_paraphrase:
            self._without_paraphrase.add(job.task)
            print(f"backbone_vlm: task {job.task!r} has no column paraphrase: evaluated clean.", flush=True)
        return "clean"

    def _swapped(self, job: Job, own: list[Image.Image]) -> list[Image.Image]:
        """Return another document's images. The pairing spans the whole split, whatever part this process answers."""
        rows = self.rows.all(job.task, job.split)
        place = (job.task, job.split)
        if place not in self._partners:
            found = ((doc_id, _images(job, row)) for doc_id, row in enumerate(rows))
            keys = ((doc_id, image_key(images), len(images)) for doc_id, images in found)
            self._partners[place] = swap_partners(keys, job.task)
        if not own:
            return own
        return _images(job, rows[self._partners[place][job.doc_id]])


def _images(job: Job, row: Mapping[str, Any]) -> list[Image.Image]:
    visuals = job.doc_to_visual(row) or []
    visuals = list(visuals) if isinstance(visuals, list | tuple) else [visuals]
    for visual in visuals:
        if not isinstance(visual, Image.Image):
            raise DataError(f"backbone_vlm reads images; the document has a {type(visual).__name__}.")
    return [to_rgb(image) for image in visuals]

"""ViP-LLaVA's region records as training rows: the words now, the marks whenever the picture is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_backbones.data._chat_rows import RENAMED, picture_of
from vlm_backbones.data._pictures import resolve_picture
from vlm_backbones.data.conversations import IMAGE_TOKEN, Example, ImageSource, Turn
from vlm_backbones.data.region_records import record_generator, region_example
from vlm_backbones.errors import DataError
from vlm_backbones.json_text import parse_json

__all__ = ["build_region_example"]

_SEED = 0
"""The marks of a record are drawn once and for all, alike for every backbone; the published code drew anew."""


@dataclass(frozen=True, kw_only=True)
class _MarkedPicture(ImageSource):
    """A picture whose marks are drawn when it is opened; its bytes are those of the file."""

    row: Mapping[str, Any] = field(repr=False)
    meta: Mapping[str, Any] | None = field(repr=False, default=None)

    def open(self) -> Image.Image:
        """Return the picture with its visual prompts, not turned by EXIF: boxes count the pixels as they are stored."""
        generator = record_generator(_SEED, str(self.row["id"]))
        return region_example(self.row, self._rgb(upright=False), generator, place=self.place, vcr_meta=self.meta).image

    def digest(self) -> bytes:
        """Return a hash of the file and of what is drawn on it."""
        record = json.dumps([_SEED, self.row, self.meta, "as stored"], sort_keys=True, default=str)
        return hashlib.sha256(super().digest() + record.encode()).digest()


def build_region_example(row: Mapping[str, Any], place: str, root: Path) -> Example:
    """Return the example of a region record: a chain of turns over the marked picture.

    Raises
    ------
    DataError
        Naming `place`, where a field is missing or malformed or a file cannot be found.
    """
    plain = picture_of(row, place, root)
    if plain is None:
        raise DataError(f"{place}: a region record without an image. Drop the row.")
    meta = _read_meta(row, place, root)
    # the words come from the record alone; the marks' places do not change them, so any canvas does here
    blank = Image.new("RGB", (32, 32))
    said = region_example(row, blank, record_generator(_SEED, str(row["id"])), place=place, vcr_meta=meta).conversations
    texts = [message["value"].replace(IMAGE_TOKEN, "").strip() for message in said]
    turns = tuple(Turn(question, answer, place) for question, answer in zip(texts[::2], texts[1::2], strict=True))
    facts = {name.name: getattr(plain, name.name) for name in fields(plain)}
    picture = _MarkedPicture(**facts, row=row, meta=meta)
    notes = (RENAMED,) if plain.renamed else ()
    kind = str(row["id"]).partition("-")[0]
    return Example(str(row["id"]), picture, turns, independent=False, region=kind, notes=notes)


def _read_meta(row: Mapping[str, Any], place: str, root: Path) -> Mapping[str, Any] | None:
    """Return the content of the file that a VCR record names, with its objects' boxes and outlines."""
    name = row.get("meta_dir")
    if name is None:
        return None
    if not isinstance(name, str):
        raise DataError(f"{place}: meta_dir is {name!r}, expected a file's name.")
    path, _ = resolve_picture(root, name, place)
    try:
        meta = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{place}: {path} is not valid JSON ({error}).") from error
    if not isinstance(meta, dict):
        raise DataError(f"{place}: {path} holds {type(meta).__name__}, expected an object with boxes and segms.")
    return meta

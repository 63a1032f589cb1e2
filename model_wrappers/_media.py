"""The images of the documents as small files for the report: `MEDIA_DIR/IMAGE_KEY.webp`, once each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_backbones.cache import staged_path
from vlm_backbones.model_wrappers._record import image_key
from vlm_backbones.pictures import to_rgb

__all__ = ["MediaFolder", "shown_media"]

MAX_SIDE_PX = 768
QUALITY = 85
_KEY = re.compile(rb'"image_key": ?"([0-9a-f]{64})"')


class MediaFolder:
    """Writes each image once; several images of a document stand side by side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written: set[str] = set()

    def write(self, key: str | None, images: Sequence[Image.Image]) -> None:
        """Write a document's images under its key unless they are there; raises DataError where that fails."""
        if key is None or key in self._written:
            return
        path = self.folder / f"{key}.webp"
        if not path.is_file():
            with staged_path(path) as staged:
                _side_by_side(images).save(staged, format="WEBP", quality=QUALITY, method=2)
        self._written.add(key)

    def write_of(self, images: Any) -> None:
        """Write what a task's `doc_to_visual` returned, under its own key."""
        own = [to_rgb(image) for image in (images if isinstance(images, list | tuple) else [images]) if image]
        self.write(image_key(own), own)


def shown_media(samples: Path, folder: Path) -> set[Path]:
    """Return the pictures in a folder of media that a log's questions were asked about."""
    with samples.open("rb") as rows:
        keys = {key.decode() for row in rows for key in _KEY.findall(row)}
    return {path for key in keys if (path := folder / f"{key}.webp").is_file()}


def _side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    canvas = Image.new("RGB", (sum(image.width for image in images), max(image.height for image in images)), "white")
    left = 0
    for image in images:
        canvas.paste(image.convert("RGB"), (left, 0))
        left += image.width
    canvas.thumbnail((MAX_SIDE_PX * len(images), MAX_SIDE_PX))
    return canvas

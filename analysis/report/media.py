"""The images of the questions: linked where they lie, re-encoded beside the page, or inside the page."""

from __future__ import annotations

__all__ = ["Media"]

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path

from vlm_backbones.cache import staged_path
from vlm_backbones.errors import DataError
from vlm_backbones.pictures import open_rgb

_BESIDE = "report_data/media"
_QUALITY = 90


class Media:
    """Where the image of a key lies, as the page must address it: [folder number, key].

    Folders inside OUT are linked; images from elsewhere are drawn anew into OUT/report_data/media, so that nothing
    but pixels gets there: no metadata, and no file that is an image to one program and something else to another.
    With `inline` no file is written: `inlined` collects element id -> data URI of the images that were asked for.
    """

    def __init__(self, folders: Sequence[Path], out: Path, *, inline: bool = False) -> None:
        self._known: dict[str, int] = {}
        self._sources: list[Path] = []
        self._out = out
        self._inline = inline
        self._unreadable: set[str] = set()
        self._written: set[str] = set()
        self.folders: list[str] = []
        self.inlined: dict[str, str] = {}
        for folder in dict.fromkeys(path.resolve() for path in folders if path.is_dir()):
            number = self._add(folder)
            for entry in os.scandir(folder):
                # a link could lead to any picture of this machine
                if entry.name.endswith(".webp") and entry.is_file(follow_symlinks=False):
                    self._known.setdefault(entry.name[:-5], number)

    def _add(self, folder: Path) -> int:
        self._sources.append(folder)
        inside = folder.is_relative_to(self._out.resolve())
        self.folders.append(folder.relative_to(self._out.resolve()).as_posix() if inside else _BESIDE)
        return len(self.folders) - 1

    def place(self, key: str | None) -> list[int | str] | None:
        """Return [folder number, key]; None where no run kept the image, or it cannot be read."""
        if key is None or key not in self._known or key in self._unreadable:
            return None
        number = self._known[key]
        source = self._sources[number] / f"{key}.webp"
        name, target = f"image-{number}-{key}", self._out / _BESIDE / source.name
        linked = not self._inline and self.folders[number] != _BESIDE
        if linked or (name in self.inlined if self._inline else key in self._written):
            return [number, key]
        try:
            image = _redrawn(source)
        except DataError:  # a question without its image is still a question
            self._unreadable.add(key)
            return None
        if self._inline:
            self.inlined[name] = "data:image/webp;base64," + base64.b64encode(image).decode()
        else:
            with staged_path(target) as staged:
                staged.write_bytes(image)
            self._written.add(key)
        return [number, key]


def _redrawn(source: Path) -> bytes:
    stream = io.BytesIO()
    open_rgb(source).save(stream, "WEBP", quality=_QUALITY, method=0)
    return stream.getvalue()

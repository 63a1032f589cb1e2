"""The images of the questions: linked where they lie, copied beside the page, or inside the page."""

from __future__ import annotations

__all__ = ["Media"]

import base64
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from vlm_backbones.cache import staged_path

_BESIDE = "report_data/media"


class Media:
    """Where the image of a key lies, as the page must address it: [folder number, key].

    Folders inside OUT are linked; images from elsewhere are copied to OUT/report_data/media. With `inline` nothing is
    copied: `inlined` collects element id -> data URI of the images that were asked for.
    """

    def __init__(self, folders: Sequence[Path], out: Path, *, inline: bool = False) -> None:
        self._known: dict[str, int] = {}
        self._sources: list[Path] = []
        self._out = out
        self._inline = inline
        self.folders: list[str] = []
        self.inlined: dict[str, str] = {}
        for folder in dict.fromkeys(path.resolve() for path in folders if path.is_dir()):
            number = self._add(folder)
            for entry in os.scandir(folder):
                if entry.name.endswith(".webp"):
                    self._known.setdefault(entry.name[:-5], number)

    def _add(self, folder: Path) -> int:
        self._sources.append(folder)
        inside = folder.is_relative_to(self._out.resolve())
        self.folders.append(folder.relative_to(self._out.resolve()).as_posix() if inside else _BESIDE)
        return len(self.folders) - 1

    def place(self, key: str | None) -> list[int | str] | None:
        """Return [folder number, key]; None where no run kept the image."""
        if key is None or key not in self._known:
            return None
        number = self._known[key]
        source = self._sources[number] / f"{key}.webp"
        if self._inline:
            name = f"image-{number}-{key}"
            if name not in self.inlined:
                self.inlined[name] = "data:image/webp;base64," + base64.b64encode(source.read_bytes()).decode()
        elif self.folders[number] == _BESIDE:
            target = self._out / _BESIDE / f"{key}.webp"
            if not target.exists():
                with staged_path(target) as staged:
                    shutil.copyfile(source, staged)
        return [number, key]

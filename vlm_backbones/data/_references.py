"""Which picture files a JSON of conversations names, found without parsing it. No torch."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vlm_backbones.data._pictures import find_picture
from vlm_backbones.json_text import parse_json

_IMAGES = re.compile(rb'"images?"\s*:\s*("(?:[^"\\]|\\.)*"|\[[^\]{}]*\])')


def referenced_images(path: Path) -> Iterator[Path]:
    """Yield each picture file that a LLaVA-style JSON or JSONL file names, once, under the file's folder."""
    if path.suffix not in {".json", ".jsonl"} or not path.stat().st_size:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        yield from _named(path, text)


def _named(path: Path, text: mmap.mmap) -> Iterator[Path]:
    seen = set[str]()
    for match in _IMAGES.finditer(text):
        try:
            named = parse_json(match[1])
        except ValueError:  # not a list of names: preflight says what is wrong with the row
            continue
        for name in [named] if isinstance(named, str) else named:
            if isinstance(name, str) and name not in seen:
                seen.add(name)
                with suppress(OSError, ValueError):  # no file can have such a name: preflight says it with the row
                    yield find_picture(path.parent, name) or path.parent / name

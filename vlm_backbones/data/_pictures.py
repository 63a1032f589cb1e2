"""Where the pictures of a file of conversations lie: beside it, in its folder images/, or under another ending.

LLaVA's own files name ocr_vqa's pictures .jpg, while its newer download script keeps .gif and .png; the pretraining
set's pictures lie in a folder of their own. No torch.
"""

from __future__ import annotations

import re
from pathlib import Path

from vlm_backbones.errors import DataError

__all__ = ["find_picture", "is_address", "resolve_picture"]

_ADDRESS = re.compile(r"\s*(?:[a-zA-Z][a-zA-Z0-9+.-]+://|data:[^,]*,)")
_ENDINGS = (".jpg", ".png", ".gif", ".jpeg", ".webp")


def resolve_picture(root: Path, name: str, place: str) -> tuple[Path, bool]:
    """Return a picture's file and whether it has another ending than `name`.

    Parameters
    ----------
    root
        The data file's folder, resolved.
    place
        File and row, for messages.

    Raises
    ------
    DataError
        If the name is no file name, leads out of the folder, or no such file exists.
    """
    if is_address(name):
        raise DataError(f"{place}: image {name[:200]!r} is an address. Pictures are read from files only: download it.")
    try:
        inside = (root / name).resolve().is_relative_to(root)
        found = find_picture(root, name) if inside else None
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise DataError(f"{place}: image {name!r} is no file name ({error}).") from error
    if not inside:
        raise DataError(f"{place}: image {name!r} lies outside {root}.")
    if found is None:
        raise DataError(f"{place}: image {root / name} does not exist, nor under {root / 'images'}.")
    if not found.resolve().is_relative_to(root):
        raise DataError(f"{place}: image {name!r} leads outside {root}.")
    return found, found.suffix != Path(name).suffix


def is_address(name: str) -> bool:
    """Whether a picture's name is a URL, as `https://...` or `data:...`, and no file's name."""
    return _ADDRESS.match(name) is not None


def find_picture(root: Path, name: str) -> Path | None:
    """Return the file of a picture's name under a folder; None where there is none."""
    for place in (root / name, root / "images" / name):
        if place.is_file():
            return place
        for ending in _ENDINGS:
            other = place.with_suffix(ending)
            if other.is_file():
                return other
    return None

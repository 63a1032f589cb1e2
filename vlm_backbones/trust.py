"""What will run code of somebody else, said before it does. No torch."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vlm_backbones.cache import atomic_write_text, cache_dir
from vlm_backbones.errors import VlmBackbonesError

if TYPE_CHECKING:
    from vlm_backbones.study import Study

__all__ = ["Tell", "tell_of_remote_code", "tell_of_study", "tell_of_task_folders"]

Tell = Callable[[str], None]


class Row(Protocol):
    """A backbone of the registry."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def revision(self) -> str | None: ...


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def tell_of_task_folders(folders: Iterable[Path], tell: Tell = _to_stderr) -> None:
    """Say of each folder of lmms-eval tasks that it runs code; once a folder, remembered in the user's cache."""
    for folder in dict.fromkeys(path.expanduser().resolve() for path in folders):
        known = (
            cache_dir() / "task_folders" / hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()
        )
        if known.is_file() or not folder.is_dir():
            continue
        tell(
            f"notice: the tasks in {folder} run Python with your rights, by every !function of their YAML. Use folders "
            "that you trust. This is said once a folder; see docs/security.md."
        )
        try:
            atomic_write_text(known, f"{folder}\n")
        except VlmBackbonesError:  # where nothing can be remembered it is said every time
            continue


def tell_of_remote_code(row: Row, tell: Tell = _to_stderr) -> None:
    """Say which repository's code, and which revision of it, transformers may run for a backbone."""
    where = f"{row.source} at revision {row.revision or 'main, which can change: pin one as ID@REVISION'}"
    if Path(row.source).is_dir():
        where = f"the folder {row.source}"
    tell(f"notice: trust_remote_code: backbone {row.id} may run Python with your rights from {where}.")


def tell_of_study(study: Study, tell: Tell = _to_stderr) -> None:
    """Say what a study runs beyond this package: its task folders, and its backbones' own code where it trusts it."""
    from vlm_backbones.backbones import get_backbone

    tell_of_task_folders(study.task_paths, tell)
    for backbone in study.backbones if study.trust_remote_code else ():
        tell_of_remote_code(get_backbone(backbone), tell)

"""Pretrained parts of the hub: how they are opened, which commit was, and why one cannot be. No torch."""

from __future__ import annotations

__all__ = [
    "Part",
    "download_checkpoint",
    "file_of",
    "is_here",
    "loading_options",
    "opening_error",
    "part_files",
    "unpinned",
    "weight_files",
]

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

from vlm_backbones._fingerprints import files_fingerprint
from vlm_backbones.errors import CheckpointError


class Part(Protocol):
    """A registry's row: a backbone or a vision tower."""

    @property
    def id(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def licence(self) -> str | None: ...
    @property
    def source(self) -> str: ...


_TIMEOUT_SECONDS = 10


def loading_options(row: Part) -> dict[str, Any]:
    """Return what `from_pretrained` takes for a part: its revision, and no network where the hub does not answer.

    Without that the hub's client would try each file six times, for half a minute, before it says so.
    """
    if Path(row.source).is_dir():
        return {}
    return {"revision": row.revision, "local_files_only": not _hub_answers()}


@cache
def _hub_answers() -> bool:
    """Ask the hub once a process, without retries."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT_SECONDS)
    except Exception:  # offline mode, no route, no name, a proxy that refuses: there are as many kinds as clients
        return False
    return True


def download_checkpoint(name: str) -> Path:
    """Return the folder of a whole VLM on the hub, OWNER/NAME or OWNER/NAME@REVISION, downloaded where it is not yet.

    Raises
    ------
    CheckpointError
        If it cannot be downloaded; the message has the remedy.
    """
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    part = _Repository(repo, repo, revision or None)
    try:
        folder = snapshot_download(repo, revision=part.revision, local_files_only=not _hub_answers())
    except (OSError, ValueError) as error:  # the hub's own errors are both
        raise opening_error("checkpoint", part, error) from error
    return Path(folder)


@dataclass(frozen=True)
class _Repository:
    """A repository that no registry knows."""

    id: str
    source: str
    revision: str | None
    licence: str | None = None


def is_here(row: Part) -> bool:
    """Whether a part is a folder, or downloaded."""
    return Path(row.source).is_dir() or _loaded_commit(row) is not None


def _loaded_commit(row: Part) -> str | None:
    """Return the commit of a repository's files in the hub's cache; None of what is not downloaded."""
    found = file_of(row, "config.json")
    return found.parent.name if found is not None else None


def weight_files(row: Part) -> list[Path]:
    """Return the safetensors that transformers loads of a part; none of a pickle, or where not all are downloaded."""
    whole, index = (file_of(row, f"model.safetensors{end}") for end in ("", ".index.json"))
    if whole is not None:
        return [whole]
    if index is None:
        return []
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    if Path(row.source).is_dir():
        return [index.parent / name for name in names]
    found = [file_of(row, name) for name in names]
    return [path for path in found if path is not None] if None not in found else []


def file_of(row: Part, name: str) -> Path | None:
    """Return a file of a part where it is, in its folder or in the hub's cache."""
    folder = Path(row.source)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(row.source, name, revision=row.revision)
    return Path(found) if isinstance(found, str) else None


def part_files(row: Part) -> str:
    """Return which files a part is: repository and commit, or a hash over its folder."""
    folder = Path(row.source)
    if folder.is_dir():
        return files_fingerprint([folder])
    return f"{row.source}@{_loaded_commit(row) or row.revision or 'main'}"


def unpinned(rows: Iterable[Part]) -> list[str]:
    """Return a warning for each part that its repository may replace between two runs."""
    warnings = []
    for row in rows:
        if Path(row.source).is_dir() or row.revision is not None:
            continue
        commit = _loaded_commit(row)
        pin = f"{row.id}@{commit or 'COMMIT'}"
        now = f", now at {commit}" if commit else ""
        warnings.append(f"{row.id}: {row.source} is not pinned{now} and can change: write {pin} in its place")
    return warnings


def opening_error(kind: str, row: Part, error: Exception) -> CheckpointError:
    """Return the error to raise where transformers could not open a part.

    Parameters
    ----------
    kind
        What the part is, for the message: backbone, vision tower.
    error
        What transformers raised; the hub's own error is looked for among its causes.
    """
    said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return CheckpointError(f"{kind} {row.id}: cannot be opened from {row.source} ({said}). {_remedy(row, error)}")


def _remedy(row: Part, error: Exception) -> str:
    from huggingface_hub import errors as hub

    page = f"https://huggingface.co/{row.source}"
    if any(isinstance(cause, UnpicklingError) or "weights_only" in str(cause) for cause in _causes(error)):
        return "Its pickled weights hold more than tensors and could run code. Ask for safetensors."
    if Path(row.source).is_dir():
        return "Is the folder whole? It needs config.json, the weights and the tokenizer's files."
    for cause in _causes(error):
        if isinstance(cause, hub.GatedRepoError):
            return (
                f"Its licence ({row.licence or 'see its page'}) has to be accepted: ask for access on {page}, then run "
                "`hf auth login` or set HF_TOKEN; or give the path of a local folder instead of the id."
            )
        if isinstance(cause, hub.RevisionNotFoundError):
            return f"There is no revision {row.revision or 'main'!r}: see {page}/commits for those there are."
        if isinstance(cause, hub.RepositoryNotFoundError):
            return f"There is no public {page}: log in with `hf auth login` if it is private, or give a local folder."
    return (
        f"Is there a network? Else download {page} elsewhere (`hf download {row.source}`) and give the folder's path "
        "instead of the id."
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__

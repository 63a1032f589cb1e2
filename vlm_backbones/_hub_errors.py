"""Why a pretrained part cannot be opened, with the remedy: gated, unknown revision, not downloaded. No torch."""

from __future__ import annotations

__all__ = ["opening_error"]

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

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

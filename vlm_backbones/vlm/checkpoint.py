"""A VLM's folder in transformers' format: save whole or not at all, load with clear errors, fingerprint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaProcessor

from vlm_backbones._seals import folder_fingerprint, write_seal
from vlm_backbones.cache import partial_name
from vlm_backbones.errors import CheckpointError, DataError, writing_remedy
from vlm_backbones.vision.preprocessing import BACKEND
from vlm_backbones.vlm.composition import Vlm
from vlm_backbones.vlm.foreign import match_processor, read_model_config
from vlm_backbones.vlm.original import is_original, load_original, read_config
from vlm_backbones.vlm.start_token import write_setting

__all__ = ["checkpoint_fingerprint", "load", "save", "staged_folder"]

_WEIGHTS = {".safetensors", ".bin"}  # the latter in original checkpoints only
_SHOWN_NAMES = 3
_AGAIN = "Copy or download the whole folder again; a run of a study is made again by the same `study run`."
_ARCHITECTURES = {"LlavaForConditionalGeneration", "VipLlavaForConditionalGeneration"}


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield a sibling folder to fill; it takes the place of `path` on success and disappears on failure.

    Raises
    ------
    DataError
        If the disk is full or the place cannot be written.
    """
    staged = partial_name(path)
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        yield staged
        if path.exists():
            shutil.rmtree(path)
        os.replace(staged, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}. {writing_remedy(error)}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def save(
    model: Vlm,
    processor: LlavaProcessor,
    path: str | Path,
    *,
    card: str = "",
    trained_with: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint that `load` and plain transformers open; an older one at `path` is replaced whole.

    Parameters
    ----------
    card
        Text of the model card, README.md; none is written where empty.
    trained_with
        What an evaluation must have in common with the training; kept with the files' hashes in seal.json.

    Raises
    ------
    DataError
        If the folder cannot be written.
    """
    with staged_folder(Path(path)) as folder:
        try:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            write_setting(folder, processor.tokenizer)
        except SafetensorError as error:  # how the weight writer reports a full disk
            raise OSError(str(error)) from error
        write_seal(folder, trained_with)
        if card:
            (folder / "README.md").write_text(card, encoding="utf-8")


def load(
    path: str | Path, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None
) -> tuple[Vlm, LlavaProcessor]:
    """Return (model, processor) of a checkpoint folder, ours, transformers' or the originals', in evaluation mode.

    Parameters
    ----------
    dtype
        Type of the weights; by default the type they were saved in.

    Raises
    ------
    CheckpointError
        If the folder has no weights, is of another architecture, lacks its processor, holds a file that cannot be read
        or weights that the architecture has no place for, or if the processor writes another number of image tokens
        than the model has features.
    """
    folder = Path(path)
    model: Any
    if is_original(_read_config(folder)):
        model, processor = load_original(folder, dtype=dtype)
        return (model if device is None else model.to(device)), processor
    _check_folder(folder)
    processor_loader: Any = AutoProcessor
    model_loader: Any = AutoModelForImageTextToText
    try:
        processor = processor_loader.from_pretrained(folder, backend=BACKEND, trust_remote_code=False)
    except Exception as error:  # a damaged file makes tokenizers and transformers raise nearly anything
        raise CheckpointError(
            f"{folder}: the processor cannot be loaded ({type(error).__name__}: {error}). "
            "Copy tokenizer.json and the processor's other files again."
        ) from error
    try:
        config = read_model_config(folder)
        model, report = model_loader.from_pretrained(
            folder,
            config=config,
            dtype=dtype or "auto",
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except Exception as error:
        raise CheckpointError(
            f"{folder}: the model cannot be loaded ({type(error).__name__}: {error}). {_AGAIN}"
        ) from error
    _check_names(folder, report["missing_keys"], "are missing")
    _check_names(folder, report["unexpected_keys"], f"have no place in {type(model).__name__} of this config.json")
    match_processor(folder, model.config, processor)
    return (model if device is None else model.to(device)).eval(), processor


def _check_names(folder: Path, names: Collection[str], problem: str) -> None:
    if names:
        shown = ", ".join(sorted(names)[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")
        raise CheckpointError(f"{folder}: {len(names)} weights {problem} ({shown}). Save the checkpoint again.")


def _check_folder(folder: Path) -> None:
    config = _read_config(folder)
    listed = config.get("architectures")
    found = list(map(str, listed)) if isinstance(listed, list) and listed else [config.get("model_type", "nothing")]
    if not _ARCHITECTURES.intersection(found):
        raise CheckpointError(
            f"{folder}: architecture {found[0]}, expected {' or '.join(sorted(_ARCHITECTURES))}. Make a VLM of an LLM "
            "by `vlm-backbones compose` or a study; other VLMs answer through lmms-eval's own models, and `analyze` "
            "compares their logs."
        )
    if not list(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder} has no weights: no *.safetensors file. {_AGAIN}")
    processor_files = [["processor_config.json", "preprocessor_config.json"], ["tokenizer.json", "tokenizer.model"]]
    for names in processor_files:
        if not any((folder / name).is_file() for name in names):
            raise CheckpointError(f"{folder} lacks its processor: no {' or '.join(names)}. {_AGAIN}")
    for file in (file for file in sorted(folder.iterdir()) if file.is_file()):
        try:
            file.open("rb").close()
        except OSError as error:  # some loaders report it as a missing file
            raise CheckpointError(f"{file} cannot be read ({error.strerror}). Allow reading it.") from error


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: expected a checkpoint in transformers' format.")
    return read_config(folder)


def checkpoint_fingerprint(path: str | Path) -> str:
    """Return the sha256 of a checkpoint: its configuration, processor and weights; the model card does not count.

    The files' hashes are kept in the user cache, so asking again is cheap.

    Raises
    ------
    CheckpointError
        If there is no config.json or no weights.
    """
    folder = Path(path)
    _read_config(folder)
    if not any(file.suffix in _WEIGHTS and file.is_file() for file in folder.iterdir()):
        raise CheckpointError(f"{folder} has no weights: no *.safetensors file. {_AGAIN}")
    return folder_fingerprint(folder)

"""Are a backbone's weights whole: every tensor that its configuration asks for, in its shape, of finite numbers?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from vlm_backbones._hub import opening_error, weight_files
from vlm_backbones.backbones import Backbone
from vlm_backbones.errors import CheckpointError
from vlm_backbones.hashes import remembered

__all__ = ["check_files", "check_loaded"]

_SHOWN_NAMES = 3


def check_files(row: Backbone, config: Any, *, trust_remote_code: bool = False) -> str:
    """Look at a backbone's safetensors where they lie; nothing is seen of a pickle, or of what is not downloaded.

    Names and shapes are read from the files' heads, and transformers itself says what would be missing. Every number
    is looked at once: the user cache remembers it, as it does hashes.

    Returns
    -------
    How many tensors have no place in the model, and the first of them; empty where none.

    Raises
    ------
    CheckpointError
        If a tensor is missing, of another shape, or not finite, or a file cannot be read.
    """
    try:
        files = weight_files(row)
        report = _report_of_heads(files, config, trust_remote_code) if files else {}
        spoilt = _spoilt_tensors(files)
    except Exception as error:  # safetensors' own error is of no class that a package exports
        raise opening_error("backbone", row, error) from error
    _refuse_gaps(row, report)
    _refuse_spoilt(row, spoilt)
    return _listed(report.get("unexpected_keys", ()))


def check_loaded(row: Backbone, llm: Any, report: Mapping[str, Any]) -> str:
    """Say the same of an LLM that was loaded, from transformers' report and its numbers.

    Parameters
    ----------
    report
        What `from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)` returns beside the LLM.
    """
    _refuse_gaps(row, report)
    spoilt = [name for name, weight in llm.state_dict().items() if not _is_finite(weight)]
    if spoilt:
        _refuse_spoilt(row, _spoilt_tensors(weight_files(row)) or {Path(row.source): _listed(spoilt)})
    return _listed(report["unexpected_keys"])


def _report_of_heads(files: Sequence[Path], config: Any, trust_remote_code: bool) -> dict[str, Any]:
    """Let transformers load tensors without storage into a model without storage; return its report."""
    if getattr(config, "quantization_config", None) is not None:
        return {}  # its tensors have other names and shapes until they are unpacked
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 (not a dictionary)
                tensors[name] = torch.empty(shard.get_slice(name).get_shape(), device="meta")
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    with _quiet():
        _, report = type(model).from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    found: dict[str, Any] = report
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from showing bars and reports: what matters of them is said by the caller."""
    chatter: Any = logging
    level, has_bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if has_bars:
            chatter.enable_progress_bar()


def _spoilt_tensors(files: Sequence[Path]) -> dict[Path, str]:
    """Return the tensors that hold NaN or infinity, by their file."""
    return {path: names for path, names in remembered("finite", files, _spoilt_of).items() if names}


def _spoilt_of(path: Path) -> str:
    with safe_open(path, framework="pt") as shard:
        names = list(shard.keys())
        return _listed([name for name in names if not _is_finite(shard.get_tensor(name))])


def _is_finite(weight: torch.Tensor) -> bool:
    if not weight.is_floating_point() or not weight.numel():
        return True
    if weight.itemsize == 1:
        weight = weight.float()  # torch has no extremes of 8-bit numbers
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(weight))  # NaN is both


def _refuse_gaps(row: Backbone, report: Mapping[str, Any]) -> None:
    if missing := report.get("missing_keys"):
        raise CheckpointError(
            f"backbone {row.id}: {row.source} lacks weights that its config.json asks for: {_listed(missing)}. They "
            "would be drawn at random. Download the whole folder again, or mend config.json (tie_word_embeddings, the "
            "number of layers)."
        )
    if mismatched := report.get("mismatched_keys"):
        name, found, expected = min(mismatched)
        raise CheckpointError(
            f"backbone {row.id}: in {row.source} {_listed([name for name, *_ in mismatched])} have another shape than "
            f"config.json asks for: {name} is {tuple(found)}, expected {tuple(expected)}. Download config.json and the "
            "weights of one model."
        )


def _refuse_spoilt(row: Backbone, spoilt: Mapping[Path, str]) -> None:
    for path, names in spoilt.items():
        raise CheckpointError(
            f"backbone {row.id}: {path} holds NaN or infinity in {names}: no answer of it would mean anything. "
            "Download the file again, or choose another backbone."
        )


def _listed(names: Collection[str]) -> str:
    """As in `9 tensors (a, b, c, ...)`; empty where there are none."""
    shown = ", ".join(sorted(names)[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")
    return f"{len(names)} tensor{'s' * (len(names) > 1)} ({shown})" if names else ""

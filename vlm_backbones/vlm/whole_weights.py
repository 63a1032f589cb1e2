"""Are a part's weights whole: every tensor that its configuration asks for, in its shape, its numbers no damage?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from vlm_backbones._hub import Part, opening_error, weight_files
from vlm_backbones.backbones import Backbone
from vlm_backbones.errors import CheckpointError
from vlm_backbones.hashes import remembered
from vlm_backbones.vision import VisionTower

__all__ = ["check_files", "check_loaded", "check_tower_files"]

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
        If a tensor is missing, of another shape, not finite, or of two or more dimensions that hold one value only, or
        a file cannot be read.
    """

    def build() -> Any:
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)

    return _check(row, config, build)


def check_tower_files(row: VisionTower, config: Any, tower_class: Callable[[Any], Any]) -> None:
    """Look at a vision tower's safetensors in the same way; CheckpointError likewise."""
    _check(row, config, lambda: tower_class(config))


def check_loaded(row: Part, model: Any, report: Mapping[str, Any]) -> str:
    """Say the same of a part that was loaded, from transformers' report and its numbers.

    Parameters
    ----------
    report
        What `from_pretrained(..., output_loading_info=True)` returns beside the model.
    """
    _refuse_gaps(row, report)
    if faults := _faults(model.state_dict().items()):
        in_files = _spoilt_tensors(weight_files(row), report["unexpected_keys"])
        _refuse_spoilt(row, in_files or {Path(row.source): faults})
    return _listed(report["unexpected_keys"])


def _check(row: Part, config: Any, build: Callable[[], Any]) -> str:
    try:
        files = weight_files(row)
        report = _report_of_heads(files, config, build) if files else {}
        unplaced = report.get("unexpected_keys", ())
        spoilt = _spoilt_tensors(files, unplaced)
    except Exception as error:  # safetensors' own error is of no class that a package exports
        raise opening_error(_kind(row), row, error) from error
    _refuse_gaps(row, report)
    _refuse_spoilt(row, spoilt)
    return _listed(unplaced)


def _kind(row: Part) -> str:
    return "vision tower" if isinstance(row, VisionTower) else "backbone"


def _report_of_heads(files: Sequence[Path], config: Any, build: Callable[[], Any]) -> dict[str, Any]:
    """Let transformers load tensors without storage into a model without storage; return its report."""
    if getattr(config, "quantization_config", None) is not None:
        return {}  # its tensors have other names and shapes until they are unpacked
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 (not a dictionary)
                tensors[name] = torch.empty(shard.get_slice(name).get_shape(), device="meta")
    with torch.device("meta"):
        model: Any = build()
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


def _spoilt_tensors(files: Sequence[Path], unplaced: Collection[str]) -> dict[Path, dict[str, str]]:
    """Return by file what is wrong with which tensors, those apart that have no place in the model."""
    known = {path: json.loads(faults) for path, faults in remembered("faults", files, _spoilt_of).items()}
    placed = {
        path: {name: fault for name, fault in faults.items() if name not in unplaced} for path, faults in known.items()
    }
    return {path: faults for path, faults in placed.items() if faults}


def _spoilt_of(path: Path) -> str:
    with safe_open(path, framework="pt") as shard:
        names = list(shard.keys())
        return json.dumps(_faults((name, shard.get_tensor(name)) for name in names))


def _faults(weights: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    return {name: fault for name, weight in weights if (fault := _fault(weight))}


def _fault(weight: torch.Tensor) -> str:
    """What is wrong with a tensor's numbers; norms, biases and tokens of their own are vectors, and may be constant."""
    if not weight.is_floating_point() or not weight.numel():
        return ""
    if weight.itemsize == 1:
        weight = weight.float()  # torch has no extremes of 8-bit numbers
    low, high = (float(extreme) for extreme in torch.aminmax(weight))  # NaN is both
    if not (math.isfinite(low) and math.isfinite(high)):
        return "NaN or infinity"
    is_matrix = sum(size > 1 for size in weight.shape) > 1
    return "one value only" if is_matrix and low == high else ""


def _refuse_gaps(row: Part, report: Mapping[str, Any]) -> None:
    if missing := report.get("missing_keys"):
        raise CheckpointError(
            f"{_kind(row)} {row.id}: {row.source} lacks weights that its config.json asks for: {_listed(missing)}. "
            "They would be drawn at random. Download the whole folder again, or mend config.json (tie_word_embeddings, "
            "the number of layers)."
        )
    if mismatched := report.get("mismatched_keys"):
        name, found, expected = min(mismatched)
        names = _listed([name for name, *_ in mismatched])
        raise CheckpointError(
            f"{_kind(row)} {row.id}: in {row.source} {names} have another shape than "
            f"config.json asks for: {name} is {tuple(found)}, expected {tuple(expected)}. Download config.json and the "
            "weights of one model."
        )


def _refuse_spoilt(row: Part, spoilt: Mapping[Path, Mapping[str, str]]) -> None:
    for path, found in spoilt.items():
        kinds = dict.fromkeys(found.values())
        faults = " and ".join(f"{kind} in {_listed([name for name in found if found[name] == kind])}" for kind in kinds)
        raise CheckpointError(
            f"{_kind(row)} {row.id}: {path} holds {faults}: no answer of it would mean anything. Download the file "
            f"again, or choose another {_kind(row)}."
        )


def _listed(names: Collection[str]) -> str:
    """As in `9 tensors (a, b, c, ...)`; empty where there are none."""
    shown = ", ".join(sorted(names)[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")
    return f"{len(names)} tensor{'s' * (len(names) > 1)} ({shown})" if names else ""

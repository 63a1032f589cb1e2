"""A seal, or hidden states, that anybody wrote are read, or refused by one error; a seal leads to no file elsewhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import fuzz, lawful
from safetensors.numpy import save
from spoiling import any_of, as_json, spoilt, spoilt_bytes, written

from vlm_backbones._outputs import missing_outputs
from vlm_backbones._seals import SEAL, check_seal
from vlm_backbones.analysis.log_files import find_logs
from vlm_backbones.analysis.run_info import RunInfo
from vlm_backbones.analysis.states import find_states
from vlm_backbones.analysis.table_similarity import similarity
from vlm_backbones.errors import CheckpointError, LogError

DIGEST = hashlib.sha256(b"{}").hexdigest()
NAMES = ["/dev/zero", "../../etc/shadow", "inner/x", "a\0b", ".", "pipe", "inner"]
SEALS = [{"files": {"config.json": DIGEST, "x": DIGEST}, "prompts": "p"}, *5 * [{"files": {"config.json": DIGEST}}],
         *({"files": {"config.json": DIGEST, name: DIGEST}} for name in NAMES)]  # fmt: skip
STATES = ["states/clean/t-rank0-00000.safetensors", *NAMES]
DONE = [{"checkpoint": "c", "version": 5, "tasks": {"t": {
    "data": "d", "samples": "samples_t.jsonl", "n": 1, "sha256": DIGEST, "files": {name: DIGEST}}}}
    for name in STATES]  # fmt: skip


@pytest.fixture(scope="module")
def folder(out: Path) -> Path:
    """A checkpoint whose one file is as sealed, with a device and a folder beside it."""
    folder = out / "checkpoint"
    (folder / "inner").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "pipe").symlink_to("/dev/zero")
    return folder


@fuzz(seal=written(spoilt(SEALS)))
def test_seals(out: Path, folder: Path, seal: bytes) -> None:
    (folder / SEAL).write_bytes(seal)
    with lawful(out):
        assert all(path.is_relative_to(folder) for path in missing_outputs(folder / "config.json"))
        check_seal(folder)


@fuzz(done=written(spoilt(DONE)))
def test_what_a_finished_condition_lists(out: Path, done: bytes) -> None:
    logs = out / "listing" / "logs" / "clean"
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "samples_t.jsonl").write_bytes(b"{}")
    (logs / "done.json").write_bytes(done)
    with lawful(out):
        run = (out / "listing").absolute()
        assert all(path.is_relative_to(run) for path in missing_outputs(logs / "done.json"))
        find_logs([out / "listing"])


HEADER = {"task": "t", "condition": "clean", "checkpoint": "c", "layers": [0, 2], "token_types": ["last_prompt", "x"]}
SHAPES: dict[str, Any] = {"states": [6, 2, 2, 4], "scales": [6, 2, 2], "doc_key": [6, 32], "doc_id": [6]}
TYPES = {"states": "float16", "scales": "float32", "doc_key": "uint8", "doc_id": "int64"}
GOOD = {"header": HEADER, "shapes": SHAPES, "types": TYPES}
KINDS = {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint64", "bool"}


def shard(of: Any) -> bytes:
    """A file of tensors as it is described, as far as there can be such; each header's value as JSON text."""
    rng, tensors = np.random.default_rng(0), {}
    of = of if isinstance(of, dict) else {}
    header, shapes, types = (
        part if isinstance(part, dict) else {} for part in map(of.get, ("header", "shapes", "types"))
    )
    for name, shape in shapes.items():
        sizes = [size for size in shape if type(size) is int and 0 <= size <= 40] if isinstance(shape, list) else []
        kind = str(types.get(name)) if str(types.get(name)) in KINDS else "float32"
        tensors[name.encode("utf-8", "replace").decode()] = np.array(
            (100 * rng.random(tuple(sizes[:5]))).astype(kind), order="C"
        )
    texts = {name: json.dumps(value, default=str) for name, value in header.items()}
    return save(tensors, metadata={name.encode("utf-8", "replace").decode(): text for name, text in texts.items()})


shards = any_of(written(spoilt([GOOD]), shard), written(spoilt([GOOD]), shard), spoilt_bytes(lambda _: shard(GOOD)))


@fuzz(first=shards, second=shards)
def test_hidden_states(out: Path, first: bytes, second: bytes) -> None:
    runs = {name: RunInfo(name, name, 0, out / name) for name in ("a", "b")}
    for name, data in (("a", first), ("b", second)):
        path = out / name / "states" / "clean" / "t-rank0-00000.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with lawful(out):
        similarity(find_states(runs, ["t"]))


def test_the_good_inputs_are_good(out: Path, folder: Path) -> None:
    """Spoiling nothing must succeed, else the fuzzers would test a refusal alone."""
    (folder / SEAL).write_bytes(as_json({"files": {"config.json": DIGEST}}))
    check_seal(folder)
    (folder / SEAL).write_bytes(as_json({"files": {"pipe": DIGEST}}))
    with pytest.raises(CheckpointError, match="pipe is not the file"):
        check_seal(folder)
    logs = out / "good" / "logs" / "clean"
    logs.mkdir(parents=True)
    (logs / "samples_t.jsonl").write_bytes(b"{}")
    shared = out / "good" / "states" / "clean" / "t-rank0-00000.safetensors"
    shared.parent.mkdir(parents=True)
    shared.write_bytes(shard(GOOD))
    for digest in (DIGEST, hashlib.sha256(shared.read_bytes()).hexdigest()):
        row = DONE[0]["tasks"]["t"] | {"files": {STATES[0]: digest}}  # type: ignore[index]
        (logs / "done.json").write_bytes(as_json({"tasks": {"t": row}}))
        if digest == DIGEST:
            with pytest.raises(LogError, match=r"00000\.safetensors is not the file that the evaluation"):
                find_logs([out / "good"])
    find_logs([out / "good"])
    found = find_states({"a": RunInfo("a", "a", 0, out / "good")}, ["t"])
    assert similarity(found).height == 2 * 4

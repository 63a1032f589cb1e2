"""A seal tells every file that is gone, or is not what it was."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from vlm_backbones._seals import SEAL, changed_files, check_seal, read_seal, write_seal
from vlm_backbones.errors import CheckpointError

YEAR_NS = 365 * 24 * 3600 * 10**9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("tokenizer.json", "config.json", "README.md", ".hidden"):
        (tmp_path / name).write_text(name)
    (tmp_path / "inner").mkdir()
    write_seal(tmp_path, {"prompts": "p"})
    return tmp_path


def later(path: Path, text: str, *, by_ns: int = YEAR_NS) -> None:
    path.write_text(text)
    seal = (path.parent / SEAL).stat().st_mtime_ns
    os.utime(path, ns=(seal + by_ns, seal + by_ns))


def test_a_seal_holds_the_files_hashes_and_facts(folder: Path) -> None:
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("config.json", "tokenizer.json")}
    assert read_seal(folder) == {"files": hashes, "prompts": "p"}
    write_seal(folder)
    assert read_seal(folder) == {"files": hashes}  # the seal before is no file of the folder
    for damaged in ("[1]", "{", ""):
        (folder / SEAL).write_text(damaged)
        assert read_seal(folder) == {}
        assert changed_files(folder) == []


def test_what_is_younger_than_the_seal_is_read_again(folder: Path) -> None:
    later(folder / "config.json", "config.json")
    later(folder / "README.md", "another card")
    (folder / "new.json").write_text("")
    assert changed_files(folder) == []
    later(folder / "config.json", "other", by_ns=0)
    assert changed_files(folder) == []  # no younger: not read
    later(folder / "config.json", "other", by_ns=1)
    assert changed_files(folder) == [folder / "config.json"]
    (folder / "tokenizer.json").unlink()
    assert changed_files(folder) == [folder / "config.json", folder / "tokenizer.json"]


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("chat_template.jinja", "the questions would be put in another chat format"),
        ("processor_config.json", "pictures would be prepared in another way"),
        ("preprocessor_config.json", "pictures would be prepared in another way"),
        ("generation_config.json", "answers would stop elsewhere than at the end of turn"),
        ("tokenizer.json", "text would become other tokens"),
        ("tokenizer_config.json", "text would become other tokens"),
        ("model.safetensors", "it is damaged, or was changed"),
    ],
)
def test_a_change_is_refused_with_what_it_means(tmp_path: Path, name: str, meaning: str) -> None:
    (tmp_path / name).write_text("as trained")
    write_seal(tmp_path)
    check_seal(tmp_path)
    later(tmp_path / name, "otherwise")
    with pytest.raises(CheckpointError) as caught:
        check_seal(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name} is not the file that was written after training")
    assert f"the one in seal.json): {meaning}" in str(caught.value)
    assert json.loads((tmp_path / SEAL).read_text()).keys() == {"files"}

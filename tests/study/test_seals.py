"""A seal tells every file that is gone, or is not what it was; what is no seal is one error."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from vlm_backbones._seals import SEAL, changed_files, check_seal, read_seal, write_seal
from vlm_backbones.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    for name in ("tokenizer.json", "config.json", "README.md", ".hidden"):
        (folder / name).write_text(name)
    write_seal(folder, {"prompts": "p"})
    return folder


def test_a_seal_holds_the_files_hashes_and_facts(folder: Path) -> None:
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("config.json", "tokenizer.json")}
    assert read_seal(folder) == {"files": hashes, "prompts": "p"}
    write_seal(folder)
    assert read_seal(folder) == {"files": hashes}  # the seal before is no file of the folder
    (folder / SEAL).unlink()
    assert read_seal(folder) == {}
    assert changed_files(folder) == []


def test_a_change_is_seen_whatever_the_files_times_say(folder: Path) -> None:
    (folder / "README.md").write_text("another card")
    (folder / "new.json").write_text("")
    assert changed_files(folder) == []
    times = (folder / "config.json").stat()
    (folder / "config.json").write_text("gifnoc.json")
    os.utime(folder / "config.json", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert changed_files(folder) == [folder / "config.json"]
    (folder / "tokenizer.json").unlink()
    assert changed_files(folder) == [folder / "config.json", folder / "tokenizer.json"]
    (folder / "config.json").write_text("config.json")
    (folder / "tokenizer.json").write_text("tokenizer.json")
    assert changed_files(folder) == []


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
    (tmp_path / name).write_text("otherwise")
    with pytest.raises(CheckpointError) as caught:
        check_seal(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name} is not the file that was written after training")
    assert f"the one in seal.json): {meaning}" in str(caught.value)
    assert json.loads((tmp_path / SEAL).read_text()).keys() == {"files"}


ZEROS = "0" * 64


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[1]", "expected an object, found list"),
        ("[" * 100_000, "nested too deeply"),
        ("{}", "expected names of files with their sha256, found NoneType"),
        ({"files": ["x"]}, "expected names of files with their sha256, found list"),
        ({"files": {"a\0b": ZEROS}}, r"'a\x00b' is no name of a file in this folder"),
        ({"files": {"/dev/zero": ZEROS}}, "'/dev/zero' is no name"),
        ({"files": {"../../etc/shadow": ZEROS}}, "'../../etc/shadow' is no name"),
        ({"files": {".": ZEROS}}, "'.' is no name"),
        ({"files": {"": ZEROS}}, "'' is no name"),
        ({"files": {"x" * 5000: ZEROS}}, "is no name"),
        ({"files": {"inner/x": ZEROS}}, "does not lie in the folder itself"),
        ({"files": {"config.json": "0"}}, "'0' is no sha256"),
        ({"files": {"config.json": 0}}, "'0' is no sha256"),
    ],
)
def test_what_is_no_seal_is_one_error(folder: Path, content: Any, problem: str) -> None:
    (folder / SEAL).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(CheckpointError) as caught:
        check_seal(folder)
    assert str(caught.value).startswith(f"{folder / SEAL} is no seal (")
    assert problem in str(caught.value)
    assert "Run the study again" in str(caught.value)


def test_only_regular_files_are_read(folder: Path) -> None:
    """A device would never end."""
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")
    assert changed_files(folder) == [folder / "config.json"]
    (folder / SEAL).unlink()
    (folder / SEAL).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="no regular file of at most 16 MB"):
        check_seal(folder)

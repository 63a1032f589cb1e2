"""What a hash tells stays true: a file is read again unless it is the very one that was hashed, untouched since."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from vlm_backbones import hashes
from vlm_backbones.cache import atomic_write_text, recorded_writes
from vlm_backbones.hashes import changed, file_sha256, known_sha256, listed_files, read_sealed_json, sealed_json


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read to be hashed; all of them count as written long ago."""
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "_AT_REST_NS", -(10**12))
    names: list[str] = []

    def reading(path: Path) -> str:
        names.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(hashes, "file_sha256", reading)
    return names


def test_a_file_is_read_again_only_where_it_was_touched(tmp_path: Path, read: list[str]) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    other.write_text("2")
    first = known_sha256([one, other])
    assert first == known_sha256([one, other]) == {one: file_sha256(one), other: file_sha256(other)}
    assert read == ["one", "other"]
    time.sleep(0.02)  # a tick of the file system's clock
    one.chmod(0o600)  # nobody can set the time of a change
    assert known_sha256([one, other]) == first
    assert read == ["one", "other", "one"]
    assert known_sha256([one, other]) == first
    assert len(read) == 3
    copy = Path(shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-copy"))
    assert set(known_sha256([copy / "one", copy / "other"]).values()) == set(first.values())
    assert len(read) == 5  # a copy is read once, whatever its times
    known_sha256([copy / "one", copy / "other"])
    assert len(read) == 5


@pytest.mark.parametrize("how", ["move", "copy", "write"])
def test_content_with_an_older_time_is_noticed(tmp_path: Path, read: list[str], how: str) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("as it was")
    other.write_text("not as it")
    for path in (file, other):
        os.utime(path, ns=(10**18, 10**18))
    known = known_sha256([file])
    time.sleep(0.02)
    if how == "move":
        other.rename(file)
    elif how == "copy":
        shutil.copy2(other, file)
    else:
        file.write_text("not as it")
        os.utime(file, ns=(10**18, 10**18))
    assert file.stat().st_mtime_ns == 10**18
    assert changed(known) == [file]


def test_what_was_written_just_now_is_hashed_again(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writes within a tick leave the same times."""
    monkeypatch.setattr(hashes, "_AT_REST_NS", 2 * 10**9)
    (tmp_path / "new").write_text("")
    for _ in range(2):
        known_sha256([tmp_path / "new"])
    assert read == ["new", "new"]


def test_no_file_and_no_cache_are_no_error(tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    strange = [tmp_path / "gone", tmp_path / "a\0b", tmp_path / "\0" / "c", tmp_path, tmp_path / "pipe"]
    assert known_sha256([*strange, Path("/dev/zero")]) == {}
    assert changed({tmp_path / "gone": ""}) == [tmp_path / "gone"]
    (tmp_path / "file").write_text("")
    for note in ("{", "[]", json.dumps({"file": 1})):
        known_sha256([tmp_path / "file"])
        for path in (tmp_path / "cache" / "hashes").iterdir():
            path.write_text(note)
        assert known_sha256([tmp_path / "file"]) == {tmp_path / "file": file_sha256(tmp_path / "file")}
    (tmp_path / "no-folder").write_text("")
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "no-folder"))
    assert known_sha256([tmp_path / "file"])


@pytest.mark.parametrize(
    "name", ["/x", "../x", "a/../x", "a//x", "./x", "a/", "", ".", "\0", 3, "x" * 256, "ü" * 128, "x/" * 512 + "x"]
)
def test_lists_name_files_inside_their_folder(tmp_path: Path, name: Any) -> None:
    digest = "0" * 64
    assert listed_files(tmp_path, {"a/b": digest, "..c": digest, "x" * 255: digest}) == {
        tmp_path / "a/b": digest,
        tmp_path / "..c": digest,
        tmp_path / ("x" * 255): digest,
    }
    with pytest.raises(ValueError, match="is no name of a file in this folder"):
        listed_files(tmp_path, {name: digest})


def test_a_json_object_tells_its_own_damage(tmp_path: Path) -> None:
    file, content = tmp_path / "x.json", {"b": [1, 0.1, None], "a": {"2": "\ud800ä"}, "path": tmp_path}
    file.write_text(sealed_json(content))
    found = read_sealed_json(file)
    assert found == content | {"path": str(tmp_path)}
    text = file.read_text()
    assert sealed_json(found) == sealed_json(json.loads(text)) == text  # a hash from before is not hashed
    for damaged in (text.replace("0.1", "0.2"), text[:60], "[1]", "", "[" * 100_000):
        file.write_text(damaged)
        assert read_sealed_json(file) is None
    file.write_text('{"of": "an earlier version"}')
    assert read_sealed_json(file) == {"of": "an earlier version"}
    assert read_sealed_json(tmp_path / "gone") is None


def test_what_a_block_wrote_is_known_apart_from_what_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    atomic_write_text(tmp_path / "before", "")
    with recorded_writes() as outer:
        (tmp_path / "note").write_text("the user's")
        with recorded_writes() as inner:
            atomic_write_text(Path("a") / "own", "")
        atomic_write_text(tmp_path / "later", "")
    atomic_write_text(tmp_path / "after", "")
    assert inner == [tmp_path / "a" / "own"]
    assert outer == [tmp_path / "a" / "own", tmp_path / "later"]

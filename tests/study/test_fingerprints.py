"""A fingerprint changes with every content that a stage reads, and with nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from vlm_backbones import control
from vlm_backbones._fingerprints import files_fingerprint, hash_of, read_record, stage_version
from vlm_backbones._scheduler import Job
from vlm_backbones._stage_kinds import Stage
from vlm_backbones.errors import ConfigError


def test_a_value_is_hashed_as_json_with_sorted_keys() -> None:
    expected = hashlib.sha256(b'{"a": [1, null], "b": "x/y"}').hexdigest()
    assert hash_of({"b": Path("x/y"), "a": [1, None]}) == expected


def test_the_version_is_read_from_the_source() -> None:
    assert stage_version("vlm_backbones.control") == control.VERSION
    with pytest.raises(ConfigError, match=r"errors\.py declares no VERSION"):
        stage_version("vlm_backbones.errors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    (path / "inner").mkdir(parents=True)
    (path / "one.txt").write_text("one")
    (path / "inner" / "two.txt").write_text("two")
    return path


def test_a_folder_is_its_files_names_and_contents(folder: Path, tmp_path: Path) -> None:
    seen = [files_fingerprint([folder])]
    assert files_fingerprint([shutil.copytree(folder, tmp_path / "elsewhere")]) == seen[0]
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "one.pyc").write_text("made by Python")
    assert files_fingerprint([folder]) == seen[0]
    (folder / "inner" / "two.txt").write_text("owt")
    seen.append(files_fingerprint([folder]))
    (folder / "inner" / "two.txt").rename(folder / "inner" / "deux.txt")
    seen.append(files_fingerprint([folder]))
    (folder / "inner" / "deux.txt").rename(folder / "deux.txt")
    seen += [files_fingerprint([folder]), files_fingerprint([folder, folder]), files_fingerprint([])]
    assert len(set(seen)) == len(seen)


def test_linked_folders_count_and_loops_end(folder: Path, tmp_path: Path) -> None:
    linking = tmp_path / "linking"
    linking.mkdir()
    (linking / "data").symlink_to(folder)
    (folder / "inner" / "back").symlink_to(linking)
    before = files_fingerprint([linking])
    (folder / "inner" / "two.txt").write_text("owt")
    assert files_fingerprint([linking]) != before


def test_a_single_file_is_its_content(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("one")
    assert files_fingerprint([folder / "one.txt"]) == files_fingerprint([tmp_path / "other.txt"])
    assert files_fingerprint([folder / "one.txt"]) != files_fingerprint([folder / "inner" / "two.txt"])


def test_times_of_a_file_do_not_count_and_a_change_that_keeps_them_does(folder: Path) -> None:
    """A study that is moved to another machine is the same; so is no file that was written over."""
    path = folder / "one.txt"
    os.utime(path, ns=(1, 1))
    before = files_fingerprint([folder])
    os.utime(path, ns=(1, 2))
    assert files_fingerprint([folder]) == before
    path.write_text("eno")
    os.utime(path, ns=(1, 2))
    assert files_fingerprint([folder]) != before
    with pytest.raises(FileNotFoundError):
        files_fingerprint([folder / "gone.txt"])


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "stage.json"
    assert read_record(path) == {}
    run = tmp_path / "run.json"
    run.write_text('{"fingerprint": "of its training"}')
    stage = Stage(Job("train tiny", "module", (), tmp_path / "log"), "abc", path, (run,), stands_on=(run,))
    stage.write_record(1.23456)
    assert json.loads(path.read_text()) == read_record(path)
    assert read_record(path) == {"fingerprint": "abc", "seconds": 1.23, "origins": [hash_of("of its training")]}
    assert stage.is_done
    run.write_text('{"fingerprint": "of another"}')
    assert stage.lost == [run]
    assert stage.has_ended
    assert not stage.is_done
    path.write_text('{"fingerprint": "abc", "seconds": 1.23}')  # of an earlier version
    assert stage.is_done
    for damaged in ("[1]", "{", ""):
        path.write_text(damaged)
        assert read_record(path) == {}

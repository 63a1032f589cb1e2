"""What a killed writer left behind is swept by the next one; what a living process writes is never touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from vlm_backbones.cache import atomic_write_text, partial_name, staged_path

WRITE = """
import sys, time
from pathlib import Path
from vlm_backbones.cache import partial_name, staged_path
folder = Path(sys.argv[1])
partial_name(folder / "checkpoint").mkdir()
with staged_path(folder / "states.npy") as staged:
    staged.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def start_writing(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def partials(folder: Path) -> set[str]:
    return {path.name for path in folder.glob(".*.partial")}


def test_files_of_a_killed_process_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    killed, living = start_writing(tmp_path), start_writing(tmp_path)
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(partials(tmp_path)) == 4
        atomic_write_text(tmp_path / "other.json", "{}")
        assert len(partials(tmp_path)) == 2
        assert all(name.endswith(f"-{living.pid}.partial") for name in partials(tmp_path))
    finally:
        living.kill()
        living.wait()


@pytest.mark.parametrize(
    ("name", "is_swept"),
    [
        (".a.json.00000000-1.partial", True),  # of another machine
        (".a.json.4711.partial", True),  # of an earlier version
        (".pocket-data-v4.1f2e3d4c.partial", True),
        (".notes.partial", False),  # not ours
        ("a.json.partial", False),
    ],
)
def test_the_age_decides_where_the_process_is_unknown(tmp_path: Path, name: str, is_swept: bool) -> None:
    fresh, old = tmp_path / "fresh" / name, tmp_path / "old" / name
    for path, age in ((fresh, 3600), (old, 25 * 3600)):
        path.parent.mkdir()
        path.write_text("half")
        os.utime(path, (time.time() - age, time.time() - age))
        atomic_write_text(path.parent / "other.json", "{}")
    assert fresh.exists()
    assert old.exists() is not is_swept


def test_a_folder_counts_as_touched_when_a_file_in_it_is(tmp_path: Path) -> None:
    folder = tmp_path / ".checkpoint.00000000-1.partial"
    folder.mkdir()
    (folder / "model.safetensors").write_text("half")
    os.utime(folder, (0, 0))
    assert partial_name(tmp_path / "checkpoint").parent == tmp_path
    assert folder.exists()


def test_a_whole_file_takes_its_place_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    with staged_path(tmp_path / "a") as staged:
        staged.write_text("whole")
    assert (tmp_path / "a").read_text() == "whole"
    with suppress(RuntimeError), staged_path(tmp_path / "a") as staged:
        staged.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "whole"
    assert partials(tmp_path) == set()

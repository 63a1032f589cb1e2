"""An output folder that cannot be written is refused before the work, with the remedy of its own cause."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vlm_backbones.cache import check_writable
from vlm_backbones.errors import DataError


@pytest.mark.parametrize(
    ("options", "reason"), [("ro", "read-only: choose another folder"), ("size=4k", "Free space there")]
)
def test_an_output_folder_that_cannot_be_written_is_refused_with_its_own_remedy(
    options: str, reason: str, tmp_path: Path
) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        if options != "ro":
            (tmp_path / "full").write_bytes(bytes(4096))
        with pytest.raises(DataError, match=reason) as caught:
            check_writable(tmp_path / "new" / "out")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert str(tmp_path / "new" / "out") in str(caught.value)


def test_a_folder_of_another_user_names_its_permissions() -> None:
    command = [sys.executable, "-m", "vlm_backbones.cli", "compose", "pocket-llama-3", "pocket-vision", "out"]
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    can = [*nobody, sys.executable, "-c", "import vlm_backbones.cli"]
    if os.getuid() or shutil.which("setpriv") is None or subprocess.run(can, capture_output=True).returncode:
        pytest.skip("this user cannot become another one that sees this package")
    with tempfile.TemporaryDirectory() as folder:  # tmp_path lies in a folder that others may not even enter
        Path(folder).chmod(0o755)
        # without what measures the tests' coverage, which this user cannot write
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        done = subprocess.run(
            [*nobody, *command], capture_output=True, text=True, check=False, cwd=folder, env=environment
        )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "cannot write out: Permission denied. Change its permissions or ask its owner to" in done.stderr


def test_where_a_folder_can_be_written_nothing_is_left_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file is a file\. A file stands where a folder is needed"):
        check_writable(tmp_path / "file" / "out")


@pytest.mark.parametrize(
    "arguments",
    [
        ("analyze", "LOGS", "--out", "file/out"),
        ("leaderboard", "vip-llava-study", "--out", "file/out"),
        ("compose", "pocket-llama-3", "pocket-vision", "file/out"),
        ("eval", "LOGS", "--tasks", "vqa_scene", "--out", "file/out"),
        ("study", "check", "pocket", "--out", "file/out"),
        ("data", "import", "llava", "rows.json", "file/out"),
    ],
)
def test_every_command_looks_before_it_works(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from vlm_backbones.cli import app

    (tmp_path / "LOGS").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, DataError)
    assert "cannot write" in str(error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LOGS", "file"]

"""The command line starts fast, loads no torch, and says in one message what a user can mend."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlm_backbones.cache import read_last_study
from vlm_backbones.errors import DataError


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vlm_backbones.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def refused(*arguments: str, cwd: Path | None = None) -> str:
    """Return the one message of a command that must exit with 2 and show no traceback."""
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in (
        "study",
        "train",
        "eval",
        "analyze",
        "backbones",
        "vision-towers",
        "tasks",
        "compose",
        "convert",
        "push",
        "data",
    ):
        assert command in done.stdout


def test_help_is_fast_and_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['x', '--help']\n"
        "from vlm_backbones import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, 'polars' in sys.modules, 'lmms_eval' in sys.modules)"
    )
    seconds = []
    for _ in range(3):
        start = time.process_time()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds.append(time.process_time() - start)
        assert done.stdout.splitlines()[-1] == "False False False"
    start = time.perf_counter()
    run("--version")
    assert time.perf_counter() - start < 2.0  # 0.2 s on an idle core; the bound leaves room for a busy one


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("study", "run", "pockt"), "Did you mean 'pocket'?"),
        (("study", "run", "pocket", "--set", "analyis.bootstrap=100"), "Did you mean 'analysis'?"),
        (("study", "check", "pocket", "--set", "backbones=[pocket-lama-3]"), "Did you mean 'pocket-llama-3'?"),
        (("train", "pocket", "--backbone", "pocket-lama-3"), "Did you mean 'pocket-llama-3'?"),
        (("eval", "nowhere", "--tasks", "vqa_sceen"), "Did you mean 'vqa_scene'?"),
        (("eval", "nowhere", "--tasks", "vqa_scene"), "no folder nowhere"),
        (("analyze", "nowhere", "--out", "x"), "no file or folder nowhere"),
        (("analyze", "--out", "x"), "nothing to analyze"),
        (("analyze", "--run", "name", "--out", "x"), "is not NAME=PATH"),
        (("analyze", "--run", "a=x", "--run", "a=y", "--out", "x"), "--run a: two paths, x and y"),
        (("study", "status", "."), "holds no study.yaml"),
        (("backbones", "pocket-lama-3"), "Did you mean 'pocket-llama-3'?"),
        (("vision-towers", "pocket-visoin"), "Did you mean 'pocket-vision'?"),
        (("tasks", "describe", "vqa_sceen"), "Did you mean 'vqa_scene'?"),
        (("data", "import", "earthquakes", "nowhere.csv", "out"), "no file nowhere.csv"),
        (("compose", "pocket-lama-3", "pocket-vision", "out"), "Did you mean 'pocket-llama-3'?"),
        (("compose", "pocket-llama-3", "pocket-vision", "out", "--chat-format", "x"), "unknown chat format 'x'"),
        (("convert", "nowhere", "out"), "no folder nowhere: download the original checkpoint"),
        (("push", "nowhere", "someone/name"), "no folder nowhere"),
    ],
)
def test_what_a_user_can_mend_is_one_message(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    assert expected in refused(*arguments, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback_wherever_it_stands() -> None:
    for arguments in (("--debug", "study", "run", "pockt"), ("study", "run", "pockt", "--debug")):
        done = run(*arguments)
        assert done.returncode == 1
        assert "Traceback" in done.stderr


def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    assert str(blocked) in refused("study", "run", "pocket", "--out", str(blocked / "out"))


def test_lists_show_every_registered_id() -> None:
    assert "pocket-llama-3" in run("backbones").stdout
    assert "pocket-vision" in run("vision-towers").stdout
    assert "licence: Apache-2.0" in run("backbones", "pocket-llama-1").stdout
    listed = run("tasks", "list").stdout
    assert run("tasks").stdout == listed
    for task in ("vqa_scene", "seismic_description", "seismic_coords", "backbone_study"):
        assert task in listed
    assert "seismic_coords" in run("tasks", "describe", "seismic_coords").stdout


@pytest.mark.parametrize("content", ["[]", '{"study": "x"}', "{"])
def test_a_spoilt_pointer_to_the_last_study_is_named(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path))
    (tmp_path / "last_study.json").write_text(content)
    with pytest.raises(DataError, match=r"last_study\.json .*Delete it"):
        read_last_study()

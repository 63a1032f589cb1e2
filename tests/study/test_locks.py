"""Two processes never write in one folder: the second is refused, or waits for one that is dying."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from vlm_backbones.errors import ConfigError
from vlm_backbones.locks import LOCK, hold, is_held

REAL_BACKBONES = Path(__file__).parents[2] / "examples" / "real_backbones"


def test_a_folder_is_held_until_the_block_ends_however_it_does(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    assert not is_held(folder)
    with suppress(ValueError), hold(folder):
        assert is_held(folder)
        with pytest.raises(ConfigError, match=f"another process is working in {folder}"), hold(folder):
            pass
        raise ValueError
    assert not is_held(folder)
    with hold(folder):
        pass


def _work(folder: Path) -> None:
    with hold(folder):
        (folder / "begun").touch()
        time.sleep(60)


def test_a_killed_process_gives_its_folder_back(tmp_path: Path) -> None:
    worker = multiprocessing.get_context("fork").Process(target=_work, args=(tmp_path,))
    worker.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    assert is_held(tmp_path)
    os.kill(worker.pid or 0, signal.SIGKILL)
    with hold(tmp_path, wait_seconds=10):
        pass
    worker.join()


def test_a_file_system_without_locks_is_told_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with hold(tmp_path):
        pass
    assert f"{tmp_path} lies on a file system without locks" in capsys.readouterr().err


def test_a_run_is_trained_by_one_process(
    tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlm_backbones.train import finetune

    monkeypatch.setattr(finetune, "DYING_SECONDS", 0.1)
    train = ["--study", str(tiny_study), "--backbone", "tiny-1", "--out", str(tmp_path)]
    with hold(tmp_path / "tiny-1"):
        assert finetune.main(train) == 2
    assert f"error: another process is working in {tmp_path / 'tiny-1'}" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "tiny-1").iterdir()] == [LOCK]


def test_a_training_does_not_begin_where_a_study_runs(tiny_study: Path, tmp_path: Path) -> None:
    from vlm_backbones.cli import app

    backbone = ["--backbone", str(tiny_study.parent / "tiny-1")]
    with hold(tmp_path):
        done = CliRunner().invoke(app, ["train", str(tiny_study), *backbone, "--out", str(tmp_path)])
    assert isinstance(done.exception, ConfigError)
    assert "another process runs the study" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_two_analyses_do_not_write_one_report(tmp_path: Path) -> None:
    from vlm_backbones.analysis import analyze

    with hold(tmp_path / "tables"), pytest.raises(ConfigError, match=r"another process is working in .*tables"):
        analyze([REAL_BACKBONES], tmp_path, bootstrap=100)

"""The law that fuzzed inputs must obey is enforced: whoever breaks it fails, by the name of what was broken."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import fuzzing
import pytest
from fuzzing import UnlawfulError, lawful

from vlm_backbones.errors import DataError


def hang() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("kind", "breaks"),
    [
        ("hangs", hang),
        ("escapes", lambda: Path("../beside").write_text("")),
        ("escapes", lambda: os.symlink("/", "../beside")),
        ("escapes", lambda: Path("../kept").unlink()),
        ("escapes", lambda: subprocess.run(["true"], check=True)),
        ("escapes", lambda: socket.create_connection(("localhost", 9), timeout=0.1)),
    ],
    ids=["hangs", "writes", "links", "removes", "starts a process", "connects"],
)
def test_what_breaks_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, breaks: Callable[[], object]
) -> None:
    for name in ("LIMIT_SECONDS", "_WARMING_UP_SECONDS"):
        monkeypatch.setattr(fuzzing, name, 0.05)
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "kept").write_text("")
    monkeypatch.chdir(out)
    with pytest.raises(UnlawfulError) as caught, lawful(out):
        breaks()
    assert caught.value.kind == kind
    assert [path.name for path in tmp_path.iterdir() if path != out] == ["kept"]


def test_a_crash_passes_through_and_our_errors_need_words(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lawful(tmp_path):
        raise KeyError("crash")
    with pytest.raises(AssertionError, match="without a message"), lawful(tmp_path):
        raise DataError(" ")
    with lawful(tmp_path):
        (tmp_path / "file").write_text("written where it may be")
        raise DataError("row 3 is broken")

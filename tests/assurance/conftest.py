"""What the fuzz tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fuzzing
import pytest
import spoiling


def pytest_configure(config: pytest.Config) -> None:
    """Set which inputs; pytest calls this before the tests here are imported."""
    usual = fuzzing.INPUTS_FOR_ASSURANCE if config.getoption("--assurance") else fuzzing.INPUTS
    fuzzing.set_inputs(config.getoption("--inputs-from"), config.getoption("--inputs") or usual)


@pytest.fixture(scope="module")
def out() -> Iterator[Path]:
    """The only folder that a fuzzed reader may write to, in memory where the system has such; the cache lies in it.

    What compiled code writes no hook sees: the folder beside it, where the tests work, must stay empty.
    """
    spoiling.drawn_texts()  # Hypothesis keeps files where it first runs: here, not where the tests work
    spoiling.drawn_floats()
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(prefix="fuzz", dir=memory if os.access(memory, os.W_OK) else None) as root,
        pytest.MonkeyPatch.context() as patch,
    ):
        folder, beside = Path(root).resolve() / "out", Path(root).resolve() / "beside"
        folder.mkdir()
        beside.mkdir()
        patch.setenv("VLM_BACKBONES_CACHE", str(folder / "cache"))
        patch.chdir(beside)
        yield folder
        assert sorted(path.name for path in beside.parent.rglob("*") if not path.is_relative_to(folder)) == ["beside"]

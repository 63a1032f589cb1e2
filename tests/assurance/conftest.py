"""The fuzz tests import `spoiling` and `fuzzing` from here: there is no tests package."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_SPOILING = _load("spoiling")
_FUZZING = _load("fuzzing")


def pytest_configure(config: pytest.Config) -> None:
    """Set which inputs; pytest calls this before the tests here are imported."""
    usual = _FUZZING.INPUTS_FOR_ASSURANCE if config.getoption("--assurance") else _FUZZING.INPUTS
    _FUZZING.set_inputs(config.getoption("--inputs-from"), config.getoption("--inputs") or usual)


@pytest.fixture(scope="module")
def out() -> Iterator[Path]:
    """The only folder that a fuzzed reader may write to, in memory where the system has such; the cache lies in it.

    What compiled code writes no hook sees: the folder beside it, where the tests work, must stay empty.
    """
    _SPOILING.drawn_texts()  # Hypothesis keeps files where it first runs: here, not where the tests work
    _SPOILING.drawn_floats()
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

"""The fuzz tests import `fuzzing` from here: there is no tests package."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("fuzzing", Path(__file__).with_name("fuzzing.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
_FUZZING = importlib.util.module_from_spec(_SPEC)
sys.modules["fuzzing"] = _FUZZING
_SPEC.loader.exec_module(_FUZZING)


def pytest_configure(config: pytest.Config) -> None:
    """Set the number of inputs; pytest calls this before the tests here are imported."""
    usual = _FUZZING.INPUTS_FOR_ASSURANCE if config.getoption("--assurance") else _FUZZING.INPUTS
    _FUZZING.set_inputs(config.getoption("--inputs") or usual)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The only folder that a fuzzed reader may write to; the user's cache lies in it."""
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLM_BACKBONES_CACHE", str(folder / "cache"))
        yield folder

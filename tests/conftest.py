"""Tiny parts, built once a session."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def tiny_parts() -> ModuleType:
    """The builders of `tests/tiny_parts.py`; there is no tests package to import it from."""
    path = Path(__file__).resolve().parent / "tiny_parts.py"
    spec = importlib.util.spec_from_file_location("tiny_parts", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def parts(tiny_parts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with backbone/, tower/ and data/."""
    folder = tmp_path_factory.mktemp("parts")
    tiny_parts.build_backbone(folder / "backbone")
    tiny_parts.build_tower(folder / "tower")
    tiny_parts.build_datasets(folder / "data")
    return folder

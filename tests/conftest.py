"""Tiny parts, built once a session."""

from __future__ import annotations

import importlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded: a worker has one core, its processes too


@pytest.fixture(scope="session")
def tiny_parts() -> ModuleType:
    """The builders of `tests/tiny_parts.py`."""
    return importlib.import_module("tiny_parts")


@pytest.fixture(scope="session")
def region_parts() -> ModuleType:
    """The builders of `tests/region_parts.py`."""
    return importlib.import_module("region_parts")


@pytest.fixture(scope="session")
def originals() -> ModuleType:
    """The builders of `tests/original_checkpoints.py`."""
    return importlib.import_module("original_checkpoints")


@pytest.fixture(scope="session")
def parts(tiny_parts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with backbone/, tower/ and data/."""
    folder = tmp_path_factory.mktemp("parts")
    tiny_parts.build_backbone(folder / "backbone")
    tiny_parts.build_tower(folder / "tower")
    tiny_parts.build_datasets(folder / "data", splits=("train", "test"))
    return folder


@dataclass(frozen=True)
class SmallDisk:
    """A file system that is full soon."""

    folder: Path

    def grow(self, kilobytes: int) -> None:
        """Give it this size."""
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(self.folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A tmpfs of four kilobytes; skips where this user may not mount one."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command: a full disk is not tried")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here ({mounted.stderr.strip()}): a full disk is not tried")
    yield SmallDisk(folder)
    subprocess.run(["umount", str(folder)], check=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--assurance` repeats what chance decides often enough to hold it to its figures."""
    parser.addoption("--assurance", action="store_true", help="all repetitions of simulations and faults: hours")
    parser.addoption("--inputs", type=int, help="inputs of each fuzz test; 100,000 with --assurance")
    parser.addoption("--inputs-from", type=int, default=0, help="the number of a fuzz test's first input")


@pytest.fixture
def assurance(request: pytest.FixtureRequest) -> bool:
    """Whether every repetition was asked for, not the usual suite's sample."""
    return bool(request.config.getoption("--assurance"))


@pytest.fixture
def repetitions(assurance: bool) -> int:
    """How often a simulation is repeated: a sample in the usual suite, 1,000 times for assurance."""
    return 1000 if assurance else 30

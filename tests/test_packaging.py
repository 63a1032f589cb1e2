"""The package is complete as an editable install and as a wheel, and lmms-eval finds its model and tasks by itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
TOP = ("vlm_backbones", "analysis", "model_wrappers", "tasks", "train")


def folder_of(package: str) -> Path:
    """Return a package's folder by pyproject's `package-dir`."""
    parts = package.split(".")
    for length in range(len(parts), 0, -1):
        if base := SETUPTOOLS["package-dir"].get(".".join(parts[:length])):
            return ROOT.joinpath(base, *parts[length:])
    raise AssertionError(package)


def test_the_packages_list_is_the_folders() -> None:
    listed = {folder_of(package) for package in SETUPTOOLS["packages"]}
    found = {path.parent for top in TOP for path in (ROOT / top).rglob("__init__.py")}
    assert listed == found


def test_every_tested_version_is_pinned_and_no_dependency_is_missing() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pins = {canonicalize_name(line.partition("==")[0]) for line in lines}
    assert all("==" in line for line in lines)
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["bench"], *extras["docs"]]
    assert {canonicalize_name(Requirement(text).name) for text in wanted} - {project["name"]} <= pins


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("goal", ["study", "test"])
def test_make_says_how_long_the_quiet_install_takes_before_it_begins(goal: str) -> None:
    done = subprocess.run(["make", "-n", "-B", goal], capture_output=True, text=True, cwd=ROOT, check=True)
    said, install = (done.stdout.index(words) for words in ("about two minutes", "pip install"))
    assert said < install


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that no stale build folder of the checkout gets in."""
    source = tmp_path_factory.mktemp("source")
    for name in TOP:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "importable" not in done.stdout + done.stderr  # setuptools' warning on a package that is not listed
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_every_file_under_one_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"vlm_backbones"}
    kinds = {".py", ".yaml", ".md", ".j2", ".jinja", ".html", ".js", ".css", ".csv", ".json"}
    kinds |= {".safetensors", ".gz", ".png"}
    for top in TOP:
        prefix = "vlm_backbones" if top == "vlm_backbones" else f"vlm_backbones/{top}"
        files = [path for path in (ROOT / top).rglob("*") if path.suffix in kinds and "__pycache__" not in path.parts]
        assert files
        missing = [path for path in files if f"{prefix}/{path.relative_to(ROOT / top).as_posix()}" not in names]
        assert missing == []
    assert "vlm_backbones/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 20e6


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment outside the checkout: this one's libraries, and our wheel in place of the checkout."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    purelib = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    here = Path(sysconfig.get_path("purelib"))
    for path in here.iterdir():
        # everything but the editable install of this project and the start-up hooks
        if "vlm_backbones" not in path.name and path.suffix != ".pth" and path.name != "__pycache__":
            (purelib / path.name).symlink_to(path)
    command = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--no-deps", "--quiet", str(wheel)]
    subprocess.run(command, check=True)
    return folder / "bin"


def run(command: list[str], cwd: Path, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=kept | environment, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


def test_the_installed_package_is_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import vlm_backbones as core, vlm_backbones.tasks as tasks; print(core.__file__, tasks.__file__)"
    places = run([str(installed / "python"), "-c", code], tmp_path).split()
    assert all(place.startswith(str(installed.parent)) for place in places)


def test_the_missions_line_runs_from_anywhere(installed: Path, tmp_path: Path) -> None:
    """`lmms-eval --model backbone_vlm --tasks seismic_coords --limit 4`, with the wheel alone and no other flag."""
    environment = {"VLM_BACKBONES_CACHE": str(tmp_path / "cache"), "VLM_BACKBONES_DATA": str(pocket_data())}
    composed = tmp_path / "composed"
    run([str(installed / "vlm-backbones"), "compose", "pocket-llama-3", "pocket-vision", str(composed)], tmp_path)
    pointer = tmp_path / "cache" / "last_study.json"
    pointer.parent.mkdir()
    pointer.write_text(json.dumps({"study": str(tmp_path), "backbone": "pocket-llama-3", "checkpoint": str(composed)}))
    command = [str(installed / "python"), "-m", "lmms_eval", "--model", "backbone_vlm", "--tasks", "seismic_coords"]
    command += ["--limit", "4", "--output_path", "logs", "--log_samples"]
    out = run(command, tmp_path, OMP_NUM_THREADS="1", **environment)
    assert "seismic_coords" in out
    (samples,) = (tmp_path / "logs").rglob("*_samples_seismic_coords.jsonl")
    assert len(samples.read_text(encoding="utf-8").splitlines()) == 4


def pocket_data() -> Path:
    from vlm_backbones.pocket.datasets import data_dir

    return Path(data_dir())

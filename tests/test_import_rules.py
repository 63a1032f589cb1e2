"""Who may import whom: the table of the design, checked on the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"train": "train", "model_wrappers": "model_wrappers", "tasks": "tasks", "analysis": "analysis"}
OPEN = [  # torch-free and open to all
    "vlm_backbones.errors",
    "vlm_backbones.cache",
    "vlm_backbones.done_files",
    "vlm_backbones.hashes",
    "vlm_backbones.json_text",
    "vlm_backbones.locks",
    "vlm_backbones.pictures",
    "vlm_backbones.prompts",
    "vlm_backbones.scoring",
    "vlm_backbones.trained_runs",
    "vlm_backbones.study",
    "vlm_backbones.recipe",
    "vlm_backbones.pocket.datasets",
    "vlm_backbones.data.evaluation_data",
    "vlm_backbones.data.visual_prompts",
    "vlm_backbones.data.region_records",
]
OUTER = [f"vlm_backbones.{name}" for name in FOLDERS]
HEAVY = ["torch", "transformers", "lmms_eval"]
SEES_ALL = {
    "vlm_backbones/pipeline.py",
    *(f"vlm_backbones/cli/{path.name}" for path in ROOT.glob("vlm_backbones/cli/*.py")),
}
"""Lazily."""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Yield the dotted names that a file imports, `from a import b` as `a` and `a.b`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if top_level_only and id(node) in lazy:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, packages: list[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def ours(name: str) -> bool:
    """Whether the name is a module of ours, not the bare package or a name inside a module."""
    parts = name.split(".")
    if parts[0] != "vlm_backbones" or len(parts) == 1:
        return False
    folder = ROOT / parts[1] if parts[1] in FOLDERS else ROOT / "vlm_backbones" / parts[1]
    inner = folder.joinpath(*parts[2:])
    return inner.is_dir() or inner.with_suffix(".py").is_file()


def allowed(folder: str, name: str) -> bool:
    """Whether a file of `folder` may import the module `name` of ours."""
    own = f"vlm_backbones.{folder}"
    core = not within(name, OUTER)
    table = {
        "train": within(name, [own]) or core,
        "model_wrappers": within(name, [own]) or core,
        "tasks": within(name, [own, *OPEN]),
        "analysis": within(name, [own, *OPEN]),
    }
    return table[folder] or name in {"vlm_backbones.pocket", "vlm_backbones.data"}  # parents of open modules


@pytest.mark.parametrize("folder", FOLDERS)
def test_outer_folders_import_what_the_table_allows(folder: str) -> None:
    files = sources(folder)
    assert files
    wrong = [(str(path.relative_to(ROOT)), name) for path in files for name in imports(path) if ours(name)]
    assert [row for row in wrong if not allowed(folder, row[1])] == []


def test_core_imports_none_of_the_outer_folders() -> None:
    files = [path for path in sources("vlm_backbones") if str(path.relative_to(ROOT)) not in SEES_ALL]
    assert len(files) > 10
    assert [(path.name, name) for path in files for name in imports(path) if within(name, OUTER)] == []


def test_cli_and_pipeline_see_the_outer_folders_lazily() -> None:
    assert len(SEES_ALL) > 10
    for path in SEES_ALL:
        names = imports(ROOT / path, top_level_only=True)
        assert [name for name in names if within(name, [*OUTER, *HEAVY])] == []


@pytest.mark.parametrize("folder", ["analysis", "tasks"])
def test_reading_logs_and_scoring_need_no_model(folder: str) -> None:
    banned = ["torch", "transformers", *(["lmms_eval"] if folder == "analysis" else [])]
    found = [(path.name, name) for path in sources(folder) for name in imports(path) if within(name, banned)]
    assert found == []


def test_open_modules_and_what_they_import_load_no_torch() -> None:
    import subprocess

    existing = [name for name in OPEN if ours(name)]
    assert len(existing) >= 7
    code = f"import importlib, sys; [importlib.import_module(n) for n in {existing}]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_nothing_imports_the_bare_folder_names() -> None:
    everything = [path for folder in ("vlm_backbones", "tests", "benchmarks", *FOLDERS) for path in sources(folder)]
    bare = [(path.name, name) for path in everything for name in imports(path) if within(name, list(FOLDERS))]
    assert bare == []


def test_there_is_no_module_called_models() -> None:
    assert not (ROOT / "vlm_backbones" / "models").exists()
    assert not (ROOT / "vlm_backbones" / "models.py").exists()

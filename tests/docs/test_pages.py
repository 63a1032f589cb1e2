"""The pages on adding things, followed word by word: files are written, commands run, outputs appear as printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {"adding-a-task": 2, "adding-a-dataset": 3, "adding-a-backbone": 2, "adding-a-vision-tower": 2, "regions": 0}
BLOCK = re.compile(r'^```(?P<kind>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<body>.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: `bash` is run, a titled one is a file, `text` is what the block before printed."""

    kind: str
    title: str | None
    body: str


def blocks(page: str) -> Iterator[Block]:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield Block(match["kind"], match["title"], match["body"])


def run(arguments: list[str], folder: Path) -> str:
    bin_folder = str(Path(sys.executable).parent)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VLM_BACKBONES_")}
    environment = kept | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1",
        "HF_DATASETS_CACHE": str(folder / ".hf"), "VLM_BACKBONES_CACHE": str(folder / ".cache"), "COLUMNS": "120",
    }  # fmt: skip
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, f"{arguments[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_a_page_followed_word_by_word_works(page: str, tmp_path: Path) -> None:
    printed, commands = "", 0
    for block in blocks(page):
        if block.title:
            (tmp_path / block.title).write_text(block.body, encoding="utf-8")
        elif block.kind == "bash":
            printed = run(["bash", "-euo", "pipefail", "-c", block.body], tmp_path)
            commands += 1
        elif block.kind == "python":
            printed = run([sys.executable, "-c", block.body], tmp_path)
        elif block.kind == "text":
            missing = [line for line in block.body.splitlines() if line.rstrip() not in _lines(printed)]
            assert not missing, f"{missing} is not in what was printed:\n{printed}"
    assert commands == PAGES[page]


def _lines(text: str) -> set[str]:
    """The lines of an output; of a table's rows the spaces at the end do not count."""
    return {line.rstrip() for line in text.splitlines()}


def test_every_page_of_adding_something_is_followed() -> None:
    assert {path.stem for path in DOCS.glob("adding-*.md")} == {page for page in PAGES if page.startswith("adding")}


def test_every_study_file_of_the_pages_is_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A titled YAML block is a whole study: names, folders and recipe are checked, nothing is read or trained."""
    import shutil

    from vlm_backbones.backbones import get_backbone
    from vlm_backbones.study import load_study

    shutil.copytree(get_backbone("pocket-llama-2").source, tmp_path / "my-llm")
    found = [block for page in PAGES for block in blocks(page) if block.title and block.kind == "yaml"]
    assert len(found) == 1
    for block in found:
        (tmp_path / str(block.title)).write_text(block.body)
        monkeypatch.chdir(tmp_path)
        assert load_study(str(tmp_path / str(block.title)), []).vision_tower == "pocket-vision"


def test_rows_of_the_pages_are_rows_of_the_registries(tmp_path: Path) -> None:
    import yaml

    from vlm_backbones.backbones.registry import Backbone
    from vlm_backbones.vision.registry import VisionTower

    for page, kind in (("adding-a-backbone", Backbone), ("adding-a-vision-tower", VisionTower)):
        (row,) = (yaml.safe_load(block.body) for block in blocks(page) if block.body.startswith("id: "))
        assert kind(**row).id == row["id"]


def test_every_command_of_the_docs_is_one() -> None:
    """Names and options of each `vlm-backbones` line are parsed as the command line would; nothing runs."""
    import typer

    from vlm_backbones.cli import app

    lines = [
        line
        for path in (*DOCS.glob("*.md"), DOCS.parent / "README.md", *(DOCS.parent / "tasks").glob("*/README.md"))
        for fence in re.findall(r"^```\w*\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for line in fence.splitlines()
        if "vlm-backbones " in line and not line.lstrip().startswith("#")
    ]
    assert len(lines) > 50
    for line in lines:
        words = shlex.split(line.replace("[STUDY]", "pocket"), comments=True)
        start = words.index("vlm-backbones") if "vlm-backbones" in words else None
        if start is None:
            continue
        command, rest = typer.main.get_command(app), words[start + 1 :]
        while rest and rest[0] in getattr(command, "commands", {}):
            command, rest = command.commands[rest[0]], rest[1:]  # type: ignore[attr-defined]
        try:
            command.make_context(line, rest)
        except Exception as error:  # usage errors of another library
            raise AssertionError(f"{line}: {error}") from error


def test_pictures_and_pages_that_are_linked_exist() -> None:
    links = 0
    for path in DOCS.glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (DOCS / target).is_file(), f"{path.name}: {target}"
            links += 1
    assert links > 15

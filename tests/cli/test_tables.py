"""Tables are read in a terminal of 80 columns, and whole where they are piped."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from vlm_backbones._console import print_rows
from vlm_backbones._names import describe_backbones, describe_vision_towers

WIDE = [{"name": f"run-{n}", **{f"fact {k}": f"{n}{k}" * 6 for k in range(6)}} for n in (1, 2)]


def shown(rows: list[dict[str, str]], more: str = "", width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    print_rows(rows, more=more, console=console)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("describe", [describe_backbones, describe_vision_towers])
def test_the_registries_fit_80_columns_with_every_id_whole(describe: object) -> None:
    rows = describe()  # type: ignore[operator]
    lines = shown(rows, more="shown elsewhere")
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "hub_repo: shown elsewhere"
    ids = {line.split(" ")[0] for line in lines}
    assert {row["id"] for row in rows} <= ids
    assert all(row["hub_repo"] in "\n".join(shown(rows, width=400)) for row in rows)


def test_rows_of_many_columns_stand_one_below_the_other_where_they_do_not_fit() -> None:
    lines = shown(WIDE)
    assert lines[:4] == ["name:", "run-1", "  fact 0  101010101010", "  fact 1  111111111111"]
    assert lines[8] == "run-2"
    assert shown(WIDE, width=200)[0].split() == ["name", *(word for k in range(6) for word in ("fact", str(k)))]


def test_the_last_of_two_columns_is_folded_and_nothing_is_read_as_markup() -> None:
    lines = shown([{"task": "a[b]", "file": "/x" * 60}], width=40)
    assert lines[1].startswith("a[b]  /x/x")
    assert "".join(line[6:] for line in lines[1:]) == "/x" * 60


def test_a_pipe_gets_one_line_a_row() -> None:
    command = [sys.executable, "-m", "vlm_backbones.cli", "vision-towers"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 1 + len(describe_vision_towers())
    assert lines[0].split() == ["id", "family", "image_size", "feature_layer", "licence", "hub_repo"]

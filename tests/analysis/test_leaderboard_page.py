"""The leaderboard's files, its page in a real browser, and its command."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from vlm_backbones.analysis.leaderboard.tables import COLUMNS
from vlm_backbones.analysis.leaderboard.text import _tex
from vlm_backbones.analysis.leaderboard.write import write_leaderboard

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium found: the page was not opened in a browser")

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "right \u202eto left\u202c",
    "nul \x01 inside",
    "two\nlines | `code` $x_1^2$ \\input{x} 100% & more #1 ~",
    "{{ 7 * 7 }} {% raw %}",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_leaderboard(["vip-llava-study"], tmp_path_factory.mktemp("study"), bootstrap=500)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["architecture", "backbone", "checkpoint", "benchmark", "value", "n", "source"])
        for i, name in enumerate(HOSTILE):
            for j, benchmark in enumerate(HOSTILE):
                writer.writerow([name, name, name, benchmark, 10 * i + j, 50 if j else "", name])
    return write_leaderboard([str(folder / "t.csv")], folder / "out", bootstrap=100)


def test_every_file_is_written(study: Path) -> None:
    names = {path.name for path in study.parent.iterdir()}
    tables = {f"{name}.{kind}" for name in COLUMNS for kind in ("csv", "parquet")}
    assert names == tables | {"leaderboard.html", "leaderboard.md", "leaderboard.tex", "charts"}
    for name, columns in COLUMNS.items():
        frame = pl.read_parquet(study.parent / f"{name}.parquet")
        assert frame.columns == list(columns)
        assert frame.height > 0
    drawn = {path.name for path in (study.parent / "charts").iterdir()}
    assert drawn == {
        f"leaderboard_{board}_{name}.{kind}"
        for board in (1, 2)
        for name in ("means", "scores", "radar")
        for kind in ("svg", "png")
    }


def test_the_study_by_hand(study: Path) -> None:
    """ViP-LLaVA on Vicuna-13B: its ranks among the eight rows on the twelve benchmarks of Table 1, added up."""
    table = pl.read_csv(study.parent / "leaderboard.csv")
    first = table.filter(board=1).row(0, named=True)
    assert (first["entry"], first["place"]) == ("vip-llava Vicuna-1.5-13B", "1")
    # MMB 4, CN 4, W 1, POPE 3.5, SQA 6, Vet 3, VizWiz 1, MME 1, TextVQA 2, VQAv2 1, GQA 4, SEED 1: 31.5
    assert first["mean_rank"] == pytest.approx(31.5 / 12)
    # the twelve values with MME as 1564 / 20
    values = [70.3, 60.7, 75.3, 87.4, 70.0, 34.5, 57.4, 78.2, 59.6, 80.1, 62.9, 70.7]
    assert first["mean_score"] == pytest.approx(sum(values) / 12)
    assert set(table["group_questions"]) == {"unknown"}
    assert table["board"].value_counts(sort=True)["count"].to_list() == [8, 4]


def test_pairs_are_all_there(study: Path) -> None:
    pairs = pl.read_csv(study.parent / "leaderboard_pairs.csv")
    # n is known on five benchmarks of both tables (8 rows, 28 pairs) and on three of the second (4 rows, 6 pairs)
    assert pairs.filter(question="this benchmark").height == 5 * 28 + 3 * 6
    assert pairs.filter(question="other benchmarks").height == 28 + 6
    assert pairs.filter(question="other questions").height == 0


def test_markdown_and_latex_say_the_same(study: Path) -> None:
    text = (study.parent / "leaderboard.md").read_text(encoding="utf-8")
    tex = (study.parent / "leaderboard.tex").read_text(encoding="utf-8")
    assert "| 1 | vip-llava Vicuna-1.5-13B | 2.62 " in text
    assert re.findall(r"\n\n## (.*)\n\n[|-] ", text) == [
        "12 benchmarks that 8 rows share", "16 benchmarks that 4 rows share", "What to know",
    ]  # fmt: skip # without the empty lines a table is no table
    assert "1 & vip-llava Vicuna-1.5-13B & 2.62 " in tex
    assert "no samples exist" in text
    assert "no samples exist" in tex
    assert tex.count("\\begin{tabular}") == tex.count("\\end{tabular}") == 2
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| ")}
    assert widths == {6 + 12 + 1, 6 + 16 + 1}


def test_names_are_text_in_every_file(hostile: Path) -> None:
    page = hostile.read_text(encoding="utf-8")
    assert "alert(1)</script>" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\u202e" not in page
    assert "{{ 7 * 7 }}" in page
    tex = (hostile.parent / "leaderboard.tex").read_text(encoding="utf-8")
    assert "\\input" not in tex
    assert r"100\% \& more \#1" in tex
    assert _tex("a$b_c{d}~^\\<>\u2212\u2013\u2193") == (
        r"a\$b\_c\{d\}\textasciitilde{}\textasciicircum{}\textbackslash{}$<$$>$$-$--$\downarrow$"
    )
    markdown = (hostile.parent / "leaderboard.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<(?!/?sup>)", markdown)
    assert {line.count(" | ") for line in markdown.splitlines() if line.startswith("| ")} == {5 + 6}


def test_the_page_asks_for_nothing_from_the_network(study: Path) -> None:
    page = study.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
    assert "http://" not in page
    assert "https://" not in page
    assert "unsafe-eval" not in page
    assert "script-src 'sha256-" in page


def test_one_row_is_a_page_without_ranks(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("architecture,backbone,checkpoint,benchmark,value\na,x,c,X,50\n")
    page = write_leaderboard([str(tmp_path / "t.csv")], tmp_path / "out", bootstrap=100).read_text(encoding="utf-8")
    assert "There is one row only" in page
    assert "mean rank" not in re.sub(r"<style>.*?</style>", "", page.split("<tbody>")[0], flags=re.DOTALL)


def test_runs_with_samples_get_groups(study_dir: Path, tmp_path: Path) -> None:
    write_leaderboard([str(study_dir)], tmp_path, bootstrap=200)
    table = pl.read_csv(tmp_path / "leaderboard.csv")
    assert "unknown" not in table["group_questions"].to_list()
    assert table["mean_rank_low"].null_count() == 0
    pairs = pl.read_csv(tmp_path / "leaderboard_pairs.csv")
    assert set(pairs["test"]) <= {"McNemar", "sign flips"}
    assert pairs.filter(question="this benchmark")["n"].to_list() == [120] * 9


@pytest.fixture
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Any, page: Path, width: int = 1280, **context: Any) -> tuple[Any, list[str]]:
    """The page, and everything it complained about or asked for."""
    view = browser.new_context(viewport={"width": width, "height": 900}, **context).new_page()
    seen: list[str] = []
    view.on("console", lambda message: seen.append(message.text))
    view.on("pageerror", lambda error: seen.append(str(error)))
    view.on("request", lambda request: seen.append(request.url) if request.url.startswith("http") else None)
    view.goto(page.as_uri())
    return view, seen


def names(view: Any) -> list[str]:
    """Names of the rows of the first table that are shown, in order."""
    return list(view.locator("#board-1 tbody tr:visible .run").all_inner_texts())


@needs_browser
def test_sorting_and_filtering_work_by_keyboard(browser: Any, study: Path) -> None:
    view, seen = opened(browser, study)
    assert names(view)[0] == "vip-llava Vicuna-1.5-13B"
    head = view.locator("#board-1 th", has_text="MMBench_cn").get_by_role("button")
    head.focus()
    view.keyboard.press("Enter")
    assert names(view)[0] == "llava-1.5 Llama-3-8B"  # 65.8
    view.keyboard.press("Enter")
    assert names(view)[0] == "llava-1.5 Vicuna-1.5-7B"  # 57.5
    view.get_by_label("Architecture").select_option("vip-llava")
    assert len(names(view)) == 4
    view.get_by_label("Text", exact=True).fill("LLAMA-3")
    assert names(view) == ["vip-llava Llama-3-8B"]
    assert "1 of 8 rows" in view.locator("#shown").inner_text()
    view.get_by_text("Choose benchmarks").click()
    view.get_by_label("MME", exact=True).uncheck()
    assert view.locator("#board-1 th", has_text="MME").count() == 1
    assert not view.locator("#board-1 th", has_text="MME").is_visible()
    assert "15 of 16 benchmarks" in view.locator("#shown").inner_text()
    assert seen == []


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_no_width_makes_the_page_scroll_sideways(browser: Any, study: Path, width: int, scheme: str) -> None:
    view, seen = opened(browser, study, width, color_scheme=scheme)
    assert view.evaluate("document.documentElement.scrollWidth") == width
    assert seen == []


@needs_browser
def test_hostile_names_are_drawn_as_text(browser: Any, hostile: Path) -> None:
    view, seen = opened(browser, hostile)
    assert any(HOSTILE[0] in name for name in names(view))
    assert any("U+202E" in name for name in names(view))
    assert view.locator("img").count() == 0
    assert seen == []


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['x', 'leaderboard', '--help']\n"
        "from vlm_backbones import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, 'polars' in sys.modules, 'altair' in sys.modules)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 2.0  # 0.4 s on an idle core; the bound leaves room for a busy one
    assert done.stdout.splitlines()[-1] == "False False False"


def test_the_command_writes_a_leaderboard_without_torch(tmp_path: Path) -> None:
    arguments = ["x", "leaderboard", "vip-llava-study", "--out", str(tmp_path), "--bootstrap", "100"]
    code = (
        f"import sys; sys.argv = {arguments}\n"
        "from vlm_backbones import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(tmp_path / "leaderboard.html"), "False"]
    assert (tmp_path / "leaderboard.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "nothing to rank"),
        (["vip-llava-studi"], "Did you mean 'vip-llava-study'?"),
        (["vip-llava-study", "--benchmark", "x"], "is not NAME=TASK"),
        (["--run", "name"], "is not NAME=PATH"),
    ],
)
def test_what_a_user_can_mend_is_one_message(tmp_path: Path, arguments: list[str], expected: str) -> None:
    command = [sys.executable, "-m", "vlm_backbones.cli", "leaderboard", *arguments, "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []

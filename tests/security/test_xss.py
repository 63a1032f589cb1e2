"""Whatever a model, a dataset, a folder or a study says is text in the pages: drawn, never run, never fetched."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlm_backbones.analysis import analyze
from vlm_backbones.analysis.leaderboard.write import write_leaderboard

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium found: the pages were not opened in a browser")

Open = Callable[[Path], Any]
RUNS = ("<img src=x onerror=window.hacked=1>", "'\" onload=window.hacked=1 {{1234*5678}}")
TASKS = ("<svg onload=window.hacked=1>", "</script><script>window.hacked=1<!--")


def file_name(text: str) -> str:
    """Return the text without what no file may be named."""
    return text.replace("/", "\u2215").replace("\0", "")


@pytest.fixture(scope="module")
def report(xss: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report in which every text that comes from outside is hostile."""
    folder = tmp_path_factory.mktemp("xss")
    for number, run in enumerate(map(file_name, RUNS)):
        home = folder / "in" / run
        for task in map(file_name, TASKS):
            log = home / "logs" / "clean" / "m" / f"20260101_120000_samples_{task}.jsonl"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("\n".join(json.dumps(sample(i, text, number)) for i, text in enumerate(xss)))
        (home / "run.json").write_text(json.dumps({"backbone": xss[number], "seed": 0, "state": "done"}))
    certificate = {
        "equal": {text: text for text in xss}, "varies": {xss[0]: xss[1]}, "confounds": xss,
        "backbones": {text: {"stages": {text: {text: text}}} for text in xss[:6]},
    }  # fmt: skip
    (folder / "study").mkdir()
    (folder / "study" / "certificate.json").write_text(json.dumps(certificate))
    printable = [text for text in xss if text.isprintable()]
    study = {"name": xss[3], "backbones": printable[:4], "deviations": {text: {text: text, "reason": text}
                                                                       for text in printable}}  # fmt: skip
    (folder / "study" / "study.yaml").write_text(yaml.safe_dump(study))
    return analyze([folder / "in"], folder / "out", study_dir=folder / "study", bootstrap=100)


def sample(i: int, text: str, number: int) -> dict[str, Any]:
    right = float((i + number) % 3 > 0)
    extras = {"doc_key": f"k{i}", "image_key": text, "cluster": text, "logprob": -0.5, "token_count": 3,
              "truncated": False, "option_logprobs": {text: -0.2, "other": -1.7}, "condition": "clean"}  # fmt: skip
    ours = {"parsed": text, "score": right, "rungs": {text: right}, "question_type": text, "frame": text,
            "targets": json.dumps({text: text})}  # fmt: skip
    return {"doc_id": i, "input": f"{text} {i}", "target": text, "filtered_resps": [text], "doc_hash": text,
            "exact_match": right, f"{text}_score": right, "backbones": ours,
            "token_counts": [{"output_tokens": 3, "reasoning_tokens": extras}]}  # fmt: skip


@pytest.fixture(scope="module")
def board(xss: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    names = [text for text in xss if "\0" not in text and "\x1b" not in text and len(text) < 90]
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["architecture", "backbone", "checkpoint", "benchmark", "value", "n", "metric", "source"])
        for i, name in enumerate(names):
            for j, benchmark in enumerate(names[:3]):
                writer.writerow([name, name, name, benchmark, (7 * i + 5 * j) % 100, 50, benchmark, name])
    return write_leaderboard([str(folder / "t.csv")], folder / "out", bootstrap=100)


@pytest.fixture
def visit() -> Iterator[Open]:
    """Open a page; fail at the end where it said anything, threw, asked, left, or wanted a foreign file."""
    playwright = pytest.importorskip("playwright.sync_api")
    said: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])

        def opened(page: Path) -> Any:
            tab = browser.new_page()
            tab.on("console", lambda message: said.append(f"console: {message.text}"))
            tab.on("pageerror", lambda error: said.append(f"error: {error}"))
            tab.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
            tab.on("popup", lambda popup: said.append(f"popup: {popup.url}"))
            tab.on("request", lambda request: said.append(request.url) if not own(request.url, page) else None)
            tab.on(
                "framenavigated", lambda frame: said.append(f"left: {frame.url}") if frame.url != page.as_uri() else 0
            )
            tab.goto(page.as_uri())
            return tab

        yield opened
        browser.close()
    assert said == []


def own(url: str, page: Path) -> bool:
    return url.startswith(("data:", page.parent.as_uri()))


def untouched(tab: Any) -> None:
    """Nothing ran, and no element or attribute came from a text."""
    assert tab.evaluate("window.hacked") is None
    for selector in ("iframe", "object", "embed", "base", "link:not([rel=icon])", "video", "audio", "marquee", "math",
                     "foreignObject", "animate", "form[action]", "meta[http-equiv=refresh]", "script[src]",
                     "a[href^=javascript]", "use"):  # fmt: skip
        assert tab.locator(selector).count() == 0, selector
    handlers = "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()).filter(n => n.startsWith('on'))"
    assert tab.evaluate(handlers) == []
    links = "[...document.querySelectorAll('a')].map(a => a.getAttribute('href')).filter(h => /^[a-z]+:/i.test(h))"
    assert tab.evaluate(links) == []
    shown = tab.content()
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b\x0e-\x1f]", shown)
    assert "7006652" not in shown


@needs_browser
def test_a_report_of_hostile_texts(report: Path, visit: Open, xss: list[str]) -> None:
    tab = visit(report)
    for _ in range(100):
        if tab.inner_text("#found").endswith("questions"):
            break
        tab.wait_for_timeout(50)
    untouched(tab)
    seen = ""
    for task in range(len(TASKS)):
        tab.select_option("#filters [name=task]", index=task)
        tab.wait_for_timeout(150)
        for _ in range(-(-len(xss) // 12)):
            seen += str(tab.locator("#cards").text_content())
            untouched(tab)
            if tab.is_enabled("#next"):
                tab.click("#next")
                tab.wait_for_timeout(60)
    for text in xss:
        if text.isprintable():
            assert text in seen, text  # shown as it was said
    for name in ("who", "type", "order"):
        options = tab.locator(f"#filters [name={name}] option").count()
        tab.select_option(f"#filters [name={name}]", index=options - 1)
    tab.fill("#filters [name=text]", "<script>")
    tab.wait_for_timeout(300)
    for summary in tab.locator("details > summary").all():
        summary.evaluate("e => { e.parentNode.open = true; }")
    for mark in tab.locator("svg path[aria-label]:visible").all()[:20]:
        mark.hover(force=True, timeout=2000)
    untouched(tab)


@needs_browser
def test_a_leaderboard_of_hostile_names(board: Path, visit: Open) -> None:
    tab = visit(board)
    tab.fill("#narrow [name=text]", "<script>")
    options = tab.locator("#narrow [name=architecture] option").count()
    tab.select_option("#narrow [name=architecture]", index=options - 1)
    untouched(tab)


def test_the_policy_lets_nothing_in_from_a_network(report: Path, board: Path) -> None:
    for page in (report, board):
        (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page.read_text("utf-8"))
        rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
        assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
        sources = {source for rule in rules.values() for source in rule}
        assert not sources & {"*", "http:", "https:", "'unsafe-eval'", "'strict-dynamic'"}
        assert "'unsafe-inline'" not in rules["script-src"]
        assert any(source.startswith("'sha256-") for source in rules["script-src"])


def test_data_files_hold_no_markup(report: Path) -> None:
    """A data file is a script: nothing in it can end it, or the string that it is in."""
    files = list((report.parent / "report_data").glob("*.js"))
    assert len(files) == 2 * len(TASKS)
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert text.isascii()
        assert not set("<>&") & set(text)
        name, _, rest = text.removeprefix("vlmPart(").partition(",")
        assert json.loads(name) == file.stem
        json.loads(rest.rstrip().removesuffix(");"))


def test_no_file_is_named_by_a_log(report: Path) -> None:
    for path in report.parent.rglob("*"):
        assert re.fullmatch(r"[\w.\u2215=-]+", path.name), path.name
        assert path.resolve().is_relative_to(report.parent.resolve())

"""The report in a real browser: no error, no request, hostile text drawn as text, choices and filters that work."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from vlm_backbones.analysis import analyze, read_samples
from vlm_backbones.scoring import coordinate_error_km

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium found: the report was not opened in a browser")

HOSTILE = {
    "script": "<script>window.hacked = 1</script>",
    "end of script": "</script><script>window.hacked = 1</script>",
    "event handler": '<img src=x onerror="window.hacked = 1"><svg onload=window.hacked=1>',
    "bidi": "right \u202eto left\u202c and \u2066isolated\u2069",
    "nul": "nul \x00 inside",
    "surrogate": "lone \ud800 surrogate",
    "a megabyte": "x" * 1_000_000,
    "comment": "<!-- --><!--<script>",
}

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Open]:
    """Open a page; fail at the end where it wrote to the console, threw, or asked for anything but its own files."""
    said: list[str] = []
    contexts = []

    def opened(page: Path, width: int = 1280, **options: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: said.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: said.append(f"error: {error}"))
        tab.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        tab.on("request", lambda request: said.append(request.url) if not own(request.url) else None)
        tab.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
        tab.goto(page.as_uri())
        if options.get("java_script_enabled", True) and tab.query_selector("#found"):
            until(tab, "/questions$/.test(document.getElementById('found').textContent)")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert said == []


def until(tab: Any, expression: str) -> None:
    """Wait for a condition; the page's policy forbids the evaluation that Playwright's own waiting needs."""
    for _ in range(100):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(50)
    raise AssertionError(expression)


def own(url: str) -> bool:
    return url.startswith(("file:", "data:"))


@pytest.fixture(scope="module")
def report(study_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return analyze([study_dir], tmp_path_factory.mktemp("out"), bootstrap=200)


@pytest.fixture(scope="module")
def foreign(make: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two runs with 2,500 questions: three parts of samples."""
    folder = tmp_path_factory.mktemp("foreign")
    for number, run in enumerate(("first", "second")):
        rows = [
            make.row(i, f"target {i}", f"answer {i % 50}", float((i * (number + 3)) % 7 > 2), category=f"kind {i % 3}")
            for i in range(2500)
        ]
        make.log(folder / "in" / run, rows)
    return analyze([folder / "in"], folder / "out", bootstrap=100)


@pytest.fixture(scope="module")
def hostile(make: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose questions, targets, answers, types and frames are all hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    texts = list(HOSTILE.values())
    for run in ("one", "two"):
        rows = []
        for i in range(160):
            text = texts[i % len(texts)]
            backbones = {"parsed": text, "score": float(i % 2), "question_type": text[:40], "frame": text[:40]}
            target = json.dumps({"lat": 10.0, "lon": 20.0 + i / 10})
            more = {"backbones": backbones, "input": f"{text[:200]} {i}"}
            answer = text if i % 4 else '{"lat": 20.0, "lon": 10.0}'
            rows.append(make.row(i, target, answer, float(i % 2), **more))
        make.log(folder / "in" / run, rows)
    return analyze([folder / "in"], folder / "out", bootstrap=100)


def choose(tab: Any, **fields: str) -> str:
    """Set filters by their visible labels and return what the page says that it found."""
    for name, label in fields.items():
        if name == "text":
            tab.fill("#filters [name=text]", label)
        else:
            tab.select_option(f"#filters [name={name}]", label=label)
    tab.wait_for_timeout(400)
    return str(tab.inner_text("#found"))


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_complaint_and_fits_the_screen(report: Path, visit: Open, width: int, scheme: str) -> None:
    tab = visit(report, width, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(254, 254, 253)"
    assert light == (scheme == "light")
    assert tab.inner_text("#found") == "120 of 120 questions"
    # Labels of charts stay readable: the page never shrinks them by more than 15 %.
    charts = "[...document.querySelectorAll('.chart svg')].filter(svg => svg.clientWidth)"
    assert min(tab.evaluate(f"{charts}.map(svg => svg.clientWidth / parseFloat(svg.style.maxWidth))")) > 0.84


def test_the_first_screen_answers(report: Path, visit: Open) -> None:
    tab = visit(report)
    for selector in ("h1", ".lead", ".seal", ".shown figure svg"):
        box = tab.locator(selector).first.bounding_box()
        assert box["y"] + box["height"] < 900, selector
    assert "pocket-llama-3 is best on" in tab.inner_text("h1").replace("\u2011", "-")
    said = tab.locator(".said").inner_text()
    assert all(run in said for run in ("pocket-llama-1", "pocket-llama-2", "pocket-llama-3"))
    assert tab.locator(".lead").count() == 2


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_answers_are_text(hostile: Path, visit: Open, kind: str) -> None:
    tab = visit(hostile)
    shown = {
        "bidi": ["U+202E", "U+202C", "U+2066", "U+2069"],
        "nul": ["nul U+0000 inside"],
        "surrogate": ["lone \\ud800 surrogate"],
        "a megabyte": ["x" * 4000, "[... 996,000 more characters]"],
    }.get(kind, [HOSTILE[kind]])
    place = list(HOSTILE).index(kind)
    choose(tab, order="as asked")
    tab.wait_for_timeout(100)
    card = tab.locator(".card").nth(place)
    text = card.text_content()
    for part in shown:
        assert part in text
    assert tab.evaluate("window.hacked") is None
    assert tab.evaluate("document.querySelectorAll('.card script, .card svg, .card img').length") == 0
    # The page itself holds log text too (types, frames): drawn, not run.
    assert "\u202e" not in tab.content()


def test_filters_count_what_the_samples_say(report: Path, study_dir: Path, visit: Open) -> None:
    tab = visit(report)
    samples = read_samples([study_dir]).filter(task="vqa_scene", condition="clean")
    wide = samples.pivot(on="run", index=["doc_id", "question_type"], values="correct")
    runs = sorted(set(samples["run"]))
    only = wide.filter(pl.col(runs[2]), ~pl.col(runs[0]), ~pl.col(runs[1]))
    choose(tab, task="vqa_scene")
    assert choose(tab, who=f"only {runs[2]} right").startswith(f"{only.height} of 120")
    typed = only.filter(question_type="count").height
    assert choose(tab, type="count").startswith(f"{typed} of 120")
    wrong = wide.filter(~pl.any_horizontal(runs)).height
    assert choose(tab, who="all wrong", type="all").startswith(f"{wrong} of 120")
    holding = samples.filter(pl.concat_str("question", "target", "answer", separator=" ").str.contains("yellow"))
    assert choose(tab, who="everything", text="YELLOW").startswith(f"{holding['doc_id'].n_unique()} of 120")
    assert choose(tab, text="no such text").startswith("0 of 120")
    assert choose(tab, text="").startswith("120 of 120")


def test_sorting_by_confidence(report: Path, visit: Open) -> None:
    tab = visit(report)
    choose(tab, task="vqa_scene")

    def means() -> list[float]:
        cards = [card.text_content() for card in tab.locator(".card").all()]
        numbers = [[int(number) for number in re.findall(r"(\d+) % sure", card)] for card in cards]
        return [sum(row) / len(row) for row in numbers]

    choose(tab, order="surest first")
    surest = means()
    assert all(a >= b - 1 for a, b in pairwise(surest))
    choose(tab, order="least sure first")
    assert max(means()) < min(surest)


def test_a_place_says_how_far_off_it_is(report: Path, study_dir: Path, visit: Open) -> None:
    tab = visit(report)
    choose(tab, task="seismic_coords")
    card = tab.locator(".card").nth(1)
    samples = read_samples([study_dir]).filter(run="pocket-llama-1", task="seismic_coords", condition="clean")
    answer = samples.filter(doc_id="1")["answer"][0]
    true = {"lat": 30.7, "lon": 131.1}
    away = coordinate_error_km(answer, json.dumps(true))
    assert f"{away:.1f} km off" in card.inner_text() or f"{away:,.0f} km off" in card.inner_text()
    assert "no coordinates" in tab.locator(".card").nth(0).inner_text()
    assert "probability of these very words" in card.inner_text()
    assert "% sure" not in card.inner_text()


def test_a_picture_is_enlarged_by_click_and_by_key(report: Path, visit: Open) -> None:
    tab = visit(report)
    choose(tab, task="vqa_scene")
    lens = "document.getElementById('lens').open"
    tab.locator(".card .zoom").first.focus()
    tab.keyboard.press("Enter")
    assert tab.evaluate(lens)
    assert tab.locator("#lens img").bounding_box()["width"] > 600
    tab.keyboard.press("Escape")
    assert not tab.evaluate(lens)
    tab.locator(".card .zoom").first.click()
    assert tab.evaluate(lens)
    tab.locator("#lens").click()
    assert not tab.evaluate(lens)


def test_what_is_wider_than_the_screen_says_so(report: Path, visit: Open) -> None:
    tab = visit(report, 390)
    shown = "[...document.querySelectorAll('.scroll, .canvas')].filter(box => box.checkVisibility())"
    until(tab, f"{shown}.some(box => box.classList.contains('more'))")
    told = f"{shown}.map(box => [box.scrollWidth > box.clientWidth + 4, !box.previousElementSibling.hidden])"
    assert all(wide == hinted for wide, hinted in tab.evaluate(told))
    tab.evaluate(f"{shown}.forEach(box => {{ box.scrollLeft = box.scrollWidth; }})")
    until(tab, f"{shown}.every(box => !box.classList.contains('more'))")


def test_no_label_of_a_chart_is_cut_or_touches_another(report: Path, visit: Open) -> None:
    tab = visit(report)
    outside = """[...document.querySelectorAll('.chart svg')].filter(svg => svg.clientWidth).flatMap(svg => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')].filter(text => {
            const box = text.getBoundingClientRect();
            const beside = box.left < frame.left - 2 || box.right > frame.right + 2;
            return box.width && (beside || box.bottom > frame.bottom + 2);
        }).map(text => text.textContent);
    })"""
    assert tab.evaluate(outside) == []
    touching = """[...document.querySelectorAll('.chart svg .role-axis-label')].flatMap(group => {
        const boxes = [...group.querySelectorAll('text')].filter(text => !/rotate/.test(text.getAttribute('transform'))
            && text.getAttribute('opacity') !== '0')
            .map(text => text.getBoundingClientRect()).filter(box => box.width);
        return boxes.filter((a, i) => boxes.some((b, j) => j > i && a.left < b.right && b.left < a.right
            && a.top < b.bottom - 3 && b.top < a.bottom - 3)).map(() => group.textContent);
    })"""
    assert tab.evaluate(touching) == []


def test_numbered_options_are_letters(make: SimpleNamespace, tmp_path: Path, visit: Open) -> None:
    for run in ("one", "two"):
        rows = [
            make.row(i, "1", "", 1.0) | {"filtered_resps": [["-1.5", "False"], ["-0.2", "True"]]} for i in range(60)
        ]
        make.log(tmp_path / "in" / run, rows)
    tab = visit(analyze([tmp_path / "in"], tmp_path / "out", bootstrap=100))
    card = tab.locator(".card").first.inner_text()
    assert "Target B (option 2 of 2)" in card
    assert card.count("B (option 2 of 2)") == 3


def test_pages_over_several_parts(foreign: Path, visit: Open) -> None:
    tab = visit(foreign)
    assert tab.inner_text("#found") == "2,500 of 2,500 questions"
    assert tab.locator(".card").count() == 12
    assert tab.is_disabled("#previous")
    tab.fill("#page", "209")
    tab.press("#page", "Enter")
    tab.wait_for_timeout(300)
    # 2,500 = 208 * 12 + 4
    assert tab.locator(".card").count() == 4
    assert tab.is_disabled("#next")
    assert "#2499" in tab.inner_text("#cards")
    tab.click("#previous")
    tab.wait_for_timeout(300)
    assert tab.locator(".card").count() == 12
    # Hits in the first and the last part.
    assert choose(tab, text="target 24").startswith("111 of 2,500")


def test_one_task_is_shown_at_a_time(report: Path, visit: Open) -> None:
    tab = visit(report)
    section = tab.locator("#agreement")
    shown = "[...document.querySelectorAll('#agreement [data-pick=Task] > [data-label]')].map(p => !p.hidden)"
    assert tab.evaluate(shown) == [True, False, False]
    section.get_by_role("radio", name="seismic_coords").check()
    assert tab.evaluate(shown).count(True) == 1
    assert section.locator("[data-label=seismic_coords]").is_visible()
    # By keyboard: the arrow moves the choice as in any radio group.
    section.locator("input[type=radio]").first.focus()
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate(shown) == [False, True, False]


def test_tables_sort_by_click_and_by_key(report: Path, visit: Open) -> None:
    tab = visit(report)
    tab.locator("#scores details summary").click()
    rows = "[...document.querySelectorAll('#scores table.sortable tbody tr')]"
    column = f"{rows}.map(row => parseFloat(row.cells[4].textContent.replace('\u2212', '-')))"
    head = tab.locator("#scores table.sortable th", has_text="value").locator("button")
    head.click()
    down = [value for value in tab.evaluate(column) if value is not None]
    assert down == sorted(down, reverse=True)
    head.press("Enter")
    up = [value for value in tab.evaluate(column) if value is not None]
    assert up == sorted(down)
    tab.fill("#scores label.pick input", "swap seismic_coords")
    rows = tab.locator("#scores table.sortable tbody tr:visible")
    assert rows.count() > 0
    assert all("swap" in text and "seismic_coords" in text for text in rows.all_inner_texts())


def test_marks_tell_their_numbers(report: Path, visit: Open) -> None:
    tab = visit(report)
    mark = tab.locator(".shown svg path[aria-label*='n = 120']").first
    box = mark.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = tab.locator("#tip")
    tip.wait_for(state="visible")
    assert "n = 120" in tip.inner_text()


def test_everything_is_within_reach_of_the_keyboard(report: Path, visit: Open) -> None:
    tab = visit(report)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    for selector, wrong in (
        (".scroll, .canvas", "e.tabIndex < 0 || !e.getAttribute('aria-label')"),
        ("select, input", "!e.labels || !e.labels.length"),
        ("img", "!e.alt"),
    ):
        assert tab.evaluate(f"[...document.querySelectorAll('{selector}')].filter(e => {wrong}).length") == 0


def test_print_shows_every_task_and_no_control(report: Path, visit: Open) -> None:
    tab = visit(report)
    tab.emulate_media(media="print")
    for task in ("vqa_scene", "seismic_description", "seismic_coords"):
        assert tab.locator(f"#agreement [data-label={task}]").is_visible()
    assert not tab.locator("header.top").is_visible()
    assert not tab.locator(".pick >> visible=true").count()
    assert not tab.locator("#filters").is_visible()
    assert tab.pdf().startswith(b"%PDF")


def test_without_scripts_everything_but_the_samples_is_there(report: Path, visit: Open) -> None:
    tab = visit(report, java_script_enabled=False)
    assert tab.locator("#calibration [data-label=seismic_coords]").first.is_visible()
    assert tab.locator("#samples noscript").count() == 1


def test_images_are_read_when_they_come_into_view(report: Path, chromium: Any) -> None:
    asked: list[str] = []
    tab = chromium.new_page()
    tab.on("request", lambda request: asked.append(request.url) if request.url.endswith(".webp") else None)
    tab.goto(report.as_uri())
    tab.wait_for_timeout(500)
    assert asked == []
    tab.locator("#cards").scroll_into_view_if_needed()
    until(tab, "document.querySelector('.card img').naturalWidth > 0")
    assert 0 < len(set(asked)) <= 12
    tab.close()


def test_inline_images_make_one_file_that_can_be_sent(study_dir: Path, tmp_path: Path, visit: Open) -> None:
    page = analyze([study_dir], tmp_path / "out", bootstrap=100, inline_images=True)
    assert not (tmp_path / "out" / "report_data").exists()
    alone = tmp_path / "mail" / "report.html"
    alone.parent.mkdir()
    shutil.move(page, alone)
    tab = visit(alone)
    assert tab.inner_text("#found") == "120 of 120 questions"
    tab.locator("#cards").scroll_into_view_if_needed()
    until(tab, "document.querySelector('.card img').naturalWidth === 112")
    assert tab.evaluate("document.querySelector('.card img').src").startswith("data:image/webp;base64,")
    assert choose(tab, task="vqa_scene", text="yellow").split()[0] != "0"


def test_a_page_away_from_its_data_says_so(report: Path, tmp_path: Path, chromium: Any) -> None:
    alone = shutil.copy(report, tmp_path / "report.html")
    tab = chromium.new_page()
    tab.goto(Path(alone).as_uri())
    until(tab, "document.getElementById('found').textContent.startsWith('Cannot read')")
    assert "keep report_data beside this page" in tab.inner_text("#found")
    tab.close()

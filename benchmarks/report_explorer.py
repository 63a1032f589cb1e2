"""Seconds until the report of 100,000 questions answers, in headless Chromium, against a plain table of the same rows.

    python benchmarks/report_explorer.py [--questions 100000] [--runs 3] [--repeats 5]

Ours is the page that `vlm-backbones analyze` writes from a made-up log: opened means that the first cards stand
there, answered that the cards of a new filter do (the first search runs before anything was read ahead). The peer is
one HTML table with a row a question, hidden or shown by a filter, as pages without an index do it. Filters: who is
right, question type, a text (first search, which reads every part, and later ones), an order. The last line is JSON;
the milliseconds there are the slowest filter's median, since every filter must answer in time. Needs Chromium and the
package `playwright`.
"""

from __future__ import annotations

import argparse
import html
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _measure

TYPES = ("colour", "count", "exist", "position", "relation", "shape", "size", "compare")
WORDS = ("red", "green", "small", "large", "circle", "square", "left", "right", "above", "below", "star", "blue")
FEWEST = 20_000
LIMITS_MS = {"open": 2000, "filter": 200}


def main() -> int:
    """Measure and print; exit 1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.questions < FEWEST:
        parser.error(f"--questions: {FEWEST:,} at least, or what is searched for leaves no second page")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no Chromium found: install it, the page is measured in a real browser.")
    with tempfile.TemporaryDirectory() as folder:
        logs = write_logs(Path(folder) / "logs", arguments.questions, arguments.runs)
        start = time.perf_counter()
        report = write_report(logs, Path(folder) / "out")
        print(f"report written in {time.perf_counter() - start:.0f} s", flush=True)
        peer = write_table(logs, Path(folder) / "table.html")
        measured = {
            "ours": measure(browser, report, arguments.repeats, OURS),
            "peer": measure(browser, peer, arguments.repeats, PEER),
        }
    for name, times in measured.items():
        print(name, ", ".join(f"{step} {ms:.0f} ms" for step, ms in times.items()), flush=True)
    slowest = {
        name: max(ms for step, ms in times.items() if step not in ("open", "first search"))
        for name, times in measured.items()
    }
    print(json.dumps({
        "name": "report_explorer", "ours": round(slowest["ours"]), "peer": round(slowest["peer"]),
        "ratio": round(slowest["peer"] / slowest["ours"], 1), "unit": "ms", "repeats": arguments.repeats,
        "questions": arguments.questions, "runs": arguments.runs,
        "steps_ms": {name: {step: round(ms) for step, ms in times.items()} for name, times in measured.items()},
        "against": "one table with a row a question", "machine": _measure.machine(None, "polars"),
    }))  # fmt: skip
    in_time = measured["ours"]["open"] < LIMITS_MS["open"] and slowest["ours"] < LIMITS_MS["filter"]
    return 0 if in_time else 1


def write_logs(folder: Path, questions: int, runs: int) -> dict[str, Path]:
    """Write one lmms-eval samples file a run; every question has words of its own, as real ones do."""
    logs = {}
    for number in range(runs):
        rng = random.Random(number)
        path = folder / f"model-{number + 1}" / "20260101_120000_samples_made_up.jsonl"
        path.parent.mkdir(parents=True)
        with path.open("w", encoding="utf-8") as file:
            for doc in range(questions):
                words = [WORDS[(doc * step) % len(WORDS)] for step in (1, 5, 7)]
                answer = WORDS[doc % 12] if rng.random() < 0.5 + number / 10 else rng.choice(WORDS)
                row = {
                    "doc_id": doc, "target": WORDS[doc % 12], "filtered_resps": answer, "doc_hash": "same",
                    "exact_match": float(answer == WORDS[doc % 12]), "category": TYPES[doc % len(TYPES)],
                    "input": f"In picture {doc}, what is the {' '.join(words)} thing beside the other one?",
                    "backbones": {"parsed": answer, "score": float(answer == WORDS[doc % 12]),
                                  "question_type": TYPES[doc % len(TYPES)]},
                    "token_counts": [{"reasoning_tokens": {"logprob": -rng.random(), "token_count": 2}}],
                }  # fmt: skip
                file.write(json.dumps(row) + "\n")
        logs[path.parent.name] = path
    return logs


def write_report(logs: dict[str, Path], out: Path) -> Path:
    """Return the page of our analysis."""
    from vlm_backbones.analysis import analyze

    return analyze([], out, runs=logs, bootstrap=100)


def write_table(logs: dict[str, Path], path: Path) -> Path:
    """Write the same rows as one table, filtered row by row."""
    answers = [[json.loads(line) for line in log.open(encoding="utf-8")] for log in logs.values()]
    rows = []
    for of in zip(*answers, strict=True):
        right = "".join(str(int(row["exact_match"])) for row in of)
        sure = round(sum(row["token_counts"][0]["reasoning_tokens"]["logprob"] for row in of), 3)
        texts = [of[0]["input"], of[0]["target"], *(row["filtered_resps"] for row in of)]
        cells = "".join(f"<td>{html.escape(text)}</td>" for text in texts)
        rows.append(f'<tr data-right="{right}" data-type="{of[0]["category"]}" data-sure="{sure}">{cells}</tr>')
    script = """
    const body = document.querySelector("tbody"), rows = [...body.rows];
    window.keep = (test) => { for (const row of rows) row.hidden = !test(row); };
    window.order = () => { body.append(...[...rows].sort((a, b) => b.dataset.sure - a.dataset.sure)); };
    """
    page = f"<!doctype html><meta charset=utf-8><table><tbody>{''.join(rows)}</tbody></table><script>{script}</script>"
    path.write_text(page, encoding="utf-8")
    return path


# Each step: what a user does, and what must be true when the page has answered. The page says what it found when its
# cards are drawn; that line is emptied before.
SAID = "document.getElementById('found').textContent.endsWith('questions')"
OURS = {
    "open": None,
    "who is right": ("form.who.value = 'differ'; fire(form.who)", SAID),
    "question type": ("form.type.value = '3'; fire(form.type)", SAID),
    "order": ("form.order.value = 'sure'; fire(form.order)", SAID),
    "first search": ("form.text.value = 'picture 9'; fire(form.text)", SAID),
    "search": ("form.text.value = 'picture 8'; fire(form.text)", SAID),
    "page": ("document.getElementById('next').click()", "document.getElementById('page').value === '2'"),
}
PEER = {
    "open": None,
    "who is right": ("keep(row => /0/.test(row.dataset.right) && /1/.test(row.dataset.right))", "true"),
    "question type": ("keep(row => row.dataset.type === 'position')", "true"),
    "order": ("order()", "true"),
    "first search": ("keep(row => row.textContent.toLowerCase().includes('picture 9'))", "true"),
    "search": ("keep(row => row.textContent.toLowerCase().includes('picture 8'))", "true"),
}
# The typed text waits 80 ms for the next letter: the clock starts with the letter.
PRELUDE = """
const form = document.getElementById("filters");
const fire = (field) => field.dispatchEvent(new Event(field.name === "text" ? "input" : "change", { bubbles: true }));
document.getElementById("found").textContent = "";
"""


def measure(browser: str, page: Path, repeats: int, steps: dict[str, tuple[str, str] | None]) -> dict[str, float]:
    """Return the median milliseconds of each step over fresh visits, up to the frame that shows the answer."""
    from playwright.sync_api import sync_playwright

    times: dict[str, list[float]] = {step: [] for step in steps}
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for _ in range(repeats):
            tab = chromium.new_page(viewport={"width": 1280, "height": 900})
            tab.set_default_timeout(120_000)
            for step, action in steps.items():
                times[step].append(_open(tab, page) if action is None else _act(tab, *action, steps is OURS))
            tab.close()
        chromium.close()
    return {step: statistics.median(values) for step, values in times.items()}


def _open(tab: Any, page: Path) -> float:
    start = time.perf_counter()
    tab.goto(page.as_uri())
    while not tab.evaluate("document.querySelectorAll('.card, body > table tr').length > 0"):
        time.sleep(0.005)
    tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return 1000 * (time.perf_counter() - start)


def _act(tab: Any, action: str, answered: str, ours: bool) -> float:
    """Run the action inside the page and wait for the frame after the answer."""
    elapsed: float = tab.evaluate(f"""async () => {{
        {PRELUDE if ours else ""}
        const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)));
        const start = performance.now();
        {action};
        do await frame(); while (!({answered}));
        return performance.now() - start;
    }}""")
    return elapsed


if __name__ == "__main__":
    sys.exit(main())

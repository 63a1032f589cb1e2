"""The report in a real browser: no error, no request, hostile text drawn as text."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vlm_backbones.analysis import analyze

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium found: the report was not opened in a browser")


@pytest.fixture(scope="module")
def report(study_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return analyze([study_dir], tmp_path_factory.mktemp("out"), bootstrap=200)


def dump(page: Path, width: int = 1280) -> tuple[str, str]:
    """DOM after the page's scripts ran, and what the console said."""
    assert BROWSER is not None
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--virtual-time-budget=5000",
    ]
    extra = ["--enable-logging=stderr", "--dump-dom", f"--window-size={width},2000", page.as_uri()]
    done = subprocess.run([BROWSER, *flags, *extra], capture_output=True, text=True, timeout=90, errors="replace")
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_the_explorer_draws_hostile_answers_as_text(report: Path) -> None:
    turned = report.with_name("first.html")
    # The page opens on the first task; the hostile answers are in the last one.
    turned.write_text(re.sub(r'"tasks":\[(.*?\}),(\{.*?\}),(\{.*?\})\]', r'"tasks":[\3]', report.read_text()))
    dom, console = dump(turned)
    assert console == ""
    assert "120 of 120 questions" in dom
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in dom
    assert "U+202E" in dom
    assert "U+0000" in dom
    assert dom.count('<article class="card"') == 12


def test_nothing_is_refused_by_the_policy_and_images_load(report: Path) -> None:
    dom, console = dump(report, 390)
    assert console == ""
    assert "120 of 120 questions" in dom
    assert 'class="small"' in dom

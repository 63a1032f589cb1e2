"""The page as text: which sections stand there, and what the first screen says."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from vlm_backbones._backbone_facts import BackboneFacts, StageFacts
from vlm_backbones.analysis import analyze
from vlm_backbones.analysis.columns import TABLES, build_table
from vlm_backbones.analysis.report.certificate_words import _NAMES, fact_name, fact_value
from vlm_backbones.analysis.report.changes import find_changes
from vlm_backbones.analysis.report.page import write_report
from vlm_backbones.analysis.report.verdict import write_verdict
from vlm_backbones.analysis.report.view import look_at
from vlm_backbones.analysis.run_info import RunInfo
from vlm_backbones.analysis.samples import Logs, load_logs


def logs_of(make: SimpleNamespace, folder: Path, runs: list[str], docs: int = 6) -> Logs:
    for number, run in enumerate(runs):
        make.log(folder / run, [make.row(i, "a", "a", float((i + number) % 2)) for i in range(docs)])
    return load_logs([folder])


def page_of(logs: Logs, out: Path, tables: dict[str, Any], **options: Any) -> str:
    everything = {name: build_table(name, tables.get(name, [])) for name in TABLES}
    path = write_report(logs, everything, list(logs.runs), ["vqa"], out, title="made up", **options)
    return path.read_text(encoding="utf-8")


def score(run: str, value: float, task: str = "vqa") -> dict[str, Any]:
    place = {"run": run, "backbone": run, "task": task, "condition": "clean", "metric": "exact_match", "n": 6}
    return place | {"value": value, "ci_low": value - 0.1, "ci_high": value + 0.1, "n_missing": 0}


def pair(a: str, b: str, **more: Any) -> dict[str, Any]:
    row = {"task": "vqa", "run_a": a, "run_b": b, "n": 6, "n_missing": 0, "n11": 2, "n10": 1, "n01": 2, "n00": 1}
    row |= {"phi": 0.3, "phi_low": 0.1, "phi_high": 0.5, "diff": 1 / 6, "diff_low": 0.1, "diff_high": 0.3}
    return row | {"negative_flip_rate": 1 / 6, "positive_flip_rate": 1 / 3, "p_holm": 0.01, "design_effect": 1.0} | more


def test_sections_without_a_table_are_left_out(tmp_path: Path, make: SimpleNamespace) -> None:
    logs = logs_of(make, tmp_path / "in", ["a", "b"])
    page = page_of(
        logs, tmp_path / "out", {"scores": [score("a", 0.5), score("b", 0.6)], "agreement": [pair("a", "b")]}
    )
    assert 'id="agreement"' in page
    for section in ("calibration", "coordinates", "inside", "claims"):
        assert f'id="{section}"' not in page
        assert f'href="#{section}"' not in page


def test_claims_stand_with_rule_number_interval_and_null(tmp_path: Path, make: SimpleNamespace) -> None:
    logs = logs_of(make, tmp_path / "in", ["a", "b"])
    claim = {"claim": "b is more stable than a", "source": "A paper", "verdict": "supported", "value": 0.0304}
    claim |= {"ci_low": 0.0191, "ci_high": 0.0402, "p_holm": 0.023, "n": 1150, "n_missing": 3}
    claim |= {"rule": "paired difference of stability over 0", "note": "seed null: phi 0.412 between seeds of a"}
    other = claim | {"claim": "b differs from a", "verdict": "undecided", "value": None, "p_holm": None}
    page = page_of(logs, tmp_path / "out", {"scores": [score("a", 0.5), score("b", 0.6)], "claims": [claim, other]})
    first, second = re.findall(r"<tr><td><span class=\"chip.*?</tr>", page, re.DOTALL)
    for text in (
        "supported",
        "b is more stable than a",
        "0.030",
        "[0.019, 0.040]",
        "0.023",
        "1,150",
        "seed null: phi 0.412",
    ):
        assert text in first
    assert "undecided" in second
    assert page.count("paired difference of stability over 0") == 1
    assert "1 rule from the claims of one paper, by task and pair 2 judgements</a>" in page
    assert "1 supported, 1 undecided" in " ".join(page.split())


def test_tables_of_more_than_64_runs_stay_whole_beside_the_page(tmp_path: Path, make: SimpleNamespace) -> None:
    runs = [f"r{i:02d}" for i in range(66)]
    logs = logs_of(make, tmp_path / "in", runs, docs=2)
    pairs = [pair(a, b) for i, a in enumerate(runs) for b in runs[i + 1 :]]
    scores = [score(run, 0.2 + i / 100) for i, run in enumerate(runs)]
    page = page_of(logs, tmp_path / "out", {"scores": scores, "agreement": pairs})
    assert "Listed: the pairs among the 20 best runs, of 2,145 pairs; the CSV file has them all." in page
    assert page.count('<tr><td><span class="pair">') == 2 * 190  # the main measures and the others
    # Every run has its row among the scores.
    assert all(f"</i>{run}</span>" in page for run in runs)
    assert "Curves: Drawn: the 8 best of 66 runs. Tables hold all." in page


def test_one_script_runs_and_its_hash_is_the_only_one_allowed(tmp_path: Path, make: SimpleNamespace) -> None:
    logs = logs_of(make, tmp_path / "in", ["a", "b"])
    page = page_of(logs, tmp_path / "out", {"scores": [score("a", 0.5), score("b", 0.6)]})
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}' 'self' file:\"" in page


def test_inline_images_put_the_samples_into_the_page(tmp_path: Path, make: SimpleNamespace) -> None:
    logs = logs_of(make, tmp_path / "in", ["a", "b"])
    tables = {"scores": [score("a", 0.5), score("b", 0.6)]}
    beside = page_of(logs, tmp_path / "beside", tables)
    inside = page_of(logs, tmp_path / "inside", tables, inline_images=True)
    assert sorted(path.name for path in (tmp_path / "beside" / "report_data").iterdir()) == ["task-0-0.js", "task-0.js"]
    assert not (tmp_path / "inside" / "report_data").exists()
    assert '<script type="application/json" id="task-0-0">' not in beside
    assert '<script type="application/json" id="task-0-0">' in inside
    links = {
        name: set(re.findall(r' (?:href|src)="([^"#][^":]*)"', page)) for name, page in (("b", beside), ("i", inside))
    }
    assert {"tables/scores.csv", "charts/scores.png", "charts/"} <= links["b"]
    assert links["i"] == set(), "a page that is sent alone links to no file"


def test_the_first_screen_compares_backbones_over_their_seeds(tmp_path: Path, make: SimpleNamespace) -> None:
    runs = {"old": 0.5, "old-seed1": 0.5, "new": 0.8, "new-seed1": 0.8}
    make.study(tmp_path / "in", docs=80, runs=runs, media=False, hostile=False)
    logs = load_logs([tmp_path / "in"], backbones=["old", "new"])
    assert list(logs.runs) == ["old", "old-seed1", "new", "new-seed1"]
    tables = {name: build_table(name, []) for name in TABLES}
    found = find_changes(look_at(logs, tables, list(logs.runs), ["vqa_scene"]))
    assert found is not None
    assert (found.old, found.new, found.seeds) == ("old", "new", 2)
    change = found.tasks[0]
    means = logs.samples.filter(task="vqa_scene", condition="clean").group_by("run").agg(pl.col("score").mean())
    by_run = dict(means.iter_rows())
    seeds = [by_run["new"] - by_run["old"], by_run["new-seed1"] - by_run["old-seed1"]]
    assert change.by_seed == pytest.approx(seeds)
    assert change.diff[0] == pytest.approx(sum(seeds) / 2)
    assert change.diff[1] < change.diff[0] < change.diff[2]
    assert change.only_new[0] - change.only_old[0] == pytest.approx(change.diff[0])
    verdict = write_verdict(look_at(logs, tables, list(logs.runs), ["vqa_scene"]), found)
    assert verdict.headline == "new is better than old on vqa_scene"
    assert "Means over 2 seeds a backbone" in verdict.caveat
    assert change.with_seeds is not None
    assert change.with_seeds[0] == pytest.approx(change.diff[0])
    assert "Counting the seeds as chance too: vqa_scene " in verdict.caveat


def test_a_judges_points_stay_in_their_unit(tmp_path: Path, make: SimpleNamespace) -> None:
    for run, shift in (("old", 0.0), ("new", 2.0)):
        make.log(tmp_path / "in" / run, [make.row(i, "a", "a", 4.0 + i % 3 + shift) for i in range(60)])
    page = analyze([tmp_path / "in" / "old", tmp_path / "in" / "new"], tmp_path / "out", bootstrap=100).read_text()
    assert "new is better than old on vqa" in page
    assert "It gains 2.00 of its own unit [2.00,\u00a02.00] on vqa" in page
    assert "right only with" not in page
    assert "<b>7.00</b>" in page
    assert "700.0" not in page


def test_a_lower_error_rate_is_better(tmp_path: Path, make: SimpleNamespace) -> None:
    for run, rate in (("old", 0.4), ("new", 0.1)):
        rows = [make.row(i, "a", "a", 0.0) | {"wer": rate + i % 2 / 10} for i in range(60)]
        make.log(tmp_path / "in" / run, rows)
    paths = [tmp_path / "in" / "old", tmp_path / "in" / "new"]
    page = analyze(paths, tmp_path / "out", bootstrap=100, score_key="wer").read_text()
    assert "new is better than old on vqa" in page


def test_one_run_alone_says_what_it_reaches(tmp_path: Path, make: SimpleNamespace) -> None:
    make.study(tmp_path / "in", docs=60, runs={"solo": 0.7}, media=False, hostile=False)
    page = analyze([tmp_path / "in"], tmp_path / "out", bootstrap=100).read_text(encoding="utf-8")
    assert "What solo reaches" in page
    assert "One run only" in page
    for section in ("calibration", "coordinates", "samples"):
        assert f'id="{section}"' in page
    assert "What changes, task by task" not in page


def verdict_of(tasks: dict[str, tuple[float, float, float]]) -> Any:
    """Differences by task: value, low, high; p small where the interval leaves out zero."""
    pairs = [
        pair("a", "b", task=task, diff=v, diff_low=low, diff_high=high, p=0.5 if low < 0 < high else 1e-6)
        for task, (v, low, high) in tasks.items()
    ]
    scores = [score(run, 0.5, task) for run in "ab" for task in tasks]
    tables = {"scores": build_table("scores", scores), "agreement": build_table("agreement", pairs)}
    runs = {run: RunInfo(run, run, 0, None) for run in "ab"}
    logs = Logs(pl.DataFrame(), pl.DataFrame(), dict.fromkeys(tasks, "exact_match"), runs)
    view = look_at(logs, tables, ["a", "b"], list(tasks))
    return write_verdict(view, find_changes(view))


def test_the_verdict_names_the_largest_differences_and_counts_the_others() -> None:
    found = verdict_of({f"t{i}": (0.1 + i / 100, 0.05, 0.3) for i in range(9)})
    assert found.headline == "b is better than a on all 9 tasks"
    assert found.scores.startswith("It gains 18.0 points [5.0,\u00a030.0] on t8, 17.0 ")
    assert "and 5 more tasks (n" in found.scores


@pytest.mark.parametrize(
    ("low", "high", "headline"),
    [
        (0.01, 0.2, "b is better than a on t"),
        (-0.2, -0.01, "b is worse than a on t"),
        (-0.1, 0.2, "No difference between b and a stands out on t"),
    ],
)
def test_the_verdict_follows_the_interval(low: float, high: float, headline: str) -> None:
    assert verdict_of({"t": ((low + high) / 2, low, high)}).headline == headline


def test_what_makes_questions_depend_is_said_or_said_to_be_unknown(tmp_path: Path, make: SimpleNamespace) -> None:
    logs = logs_of(make, tmp_path / "in", ["a", "b"])
    tables = {"scores": [score("a", 0.5), score("b", 0.6)]}
    page = page_of(logs, tmp_path / "out", tables)
    assert "the logs name no image, so questions are taken as independent" in page
    assert "--cluster-key image_id" in page
    keyed = load_logs([tmp_path / "in"], cluster_key="doc_id")
    assert "each question is resampled alone, since none share" in page_of(keyed, tmp_path / "keyed", tables)
    halved = load_logs([tmp_path / "in"], cluster_key="doc_id//2")
    assert "are resampled together" in page_of(halved, tmp_path / "halved", tables)


def test_the_certificates_facts_have_names_and_units() -> None:
    assert (
        fact_name("finetune longest_tokens") == "finetune, longest single question, tokens: with its image and answer"
    )
    assert fact_name("digits 36.12") == "pieces that a number is split into: 36.12"
    assert fact_name("something new") == "something new"
    assert fact_value("ab" * 32) == fact_value("ab" * 16) == "fingerprint abababababab"
    assert fact_value("ab" * 15) == "ab" * 15
    assert {fact.name for fact in (*fields(StageFacts), *fields(BackboneFacts))} - set(_NAMES) == {"stages"}
    assert [fact_value(value) for value in (1234, 133.61, None, {}, ["36", ".", "12"])] == [
        "1,234", "133.6", "none", "none", "36 \u00b7 . \u00b7 12",
    ]  # fmt: skip


def test_names_that_look_like_lists_of_runs(tmp_path: Path, make: SimpleNamespace) -> None:
    for run, wrong in (("a + b + c", 3), ("none", 4)):
        make.log(tmp_path / run, [make.row(i, "a", "a", float(i != wrong)) for i in range(9)])
    page = analyze([tmp_path], tmp_path / "out", bootstrap=100).read_text(encoding="utf-8")
    solved = pl.read_parquet(tmp_path / "out" / "tables" / "solved_by.parquet")
    assert dict(solved.select("runs_right", "count").iter_rows()) == {"a+b+c + run none": 7, "a+b+c": 1, "run none": 1}
    assert "Solved by exactly 0: 0, 1: 2, 2: 7 of 2 runs" in page


@pytest.mark.parametrize(
    ("score", "said"), [(None, "has a score: name the key"), (1.0, "They answered different tasks, or different")]
)
def test_runs_that_cannot_be_compared_say_why(
    tmp_path: Path, make: SimpleNamespace, score: float | None, said: str
) -> None:
    make.log(tmp_path / "one", [make.row(i, "some text", "other", score) for i in range(9)], task="t")
    make.log(tmp_path / "two", [make.row(i, "some text", "other", 1.0) for i in range(9)], task="u")
    page = analyze([tmp_path], tmp_path / "out", bootstrap=100)
    assert said in (page.parent / "verdict.txt").read_text(encoding="utf-8")

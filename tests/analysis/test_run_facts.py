"""What a run's folder says of it, the learning rate that a sweep's trials choose, and constant confidences."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vlm_backbones.analysis._evaluation_notes import unlike_evaluations
from vlm_backbones.analysis.calibration_draws import _mean_draws
from vlm_backbones.analysis.pipeline import _notes
from vlm_backbones.analysis.report.certificate import read_certificate
from vlm_backbones.analysis.run_info import RunInfo, read_run_info
from vlm_backbones.analysis.samples import load_logs, read_samples
from vlm_backbones.analysis.sweep import choose_learning_rate
from vlm_backbones.analysis.table_calibration import calibration
from vlm_backbones.analysis.table_scores import scores
from vlm_backbones.errors import DataError, LogError
from vlm_backbones.hashes import sealed_json


@pytest.mark.parametrize(
    ("record", "backbone", "seed", "is_best"),
    [
        ({"backbone": "tiny", "seed": 3}, "tiny", 3, False),
        ({"backbone": {"id": "tiny"}, "seed": 0, "is_best": True}, "tiny", 0, True),
        ({"config": {"backbone": "tiny", "seed": 5}}, "tiny", 5, False),
        ({"backbone": "tiny", "seed": 2, "config": {"backbone": "other", "seed": 5}}, "tiny", 2, False),
        ({"config": "none"}, "run", 0, False),
        ({"seed": None}, "run", 0, False),
    ],
)
def test_a_run_says_its_backbone_and_seed(
    tmp_path: Path, record: dict[str, Any], backbone: str, seed: int, is_best: bool
) -> None:
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert read_run_info("run", tmp_path) == RunInfo("run", backbone, seed, tmp_path, is_best)


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is not valid JSON"), ("[]", "holds no JSON object"), ('{"seed": "x"}', "seed is 'x'")]
)
def test_a_damaged_record_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(LogError, match=rf"run\.json.* {said}"):
        read_run_info("run", tmp_path)


FACTS = {"recipe": {"steps": 1}, "seed": 0}
STAGE = {"steps": 4, "batch_size": 4, "learning_rate": 0.1}
MEMORY, LESS_MEMORY = ({"recipe": {"finetune": {**STAGE, "micro_batch_size": size}}} for size in (4, 1))


@pytest.mark.parametrize(
    ("records", "backbones", "said"),
    [
        ([{"seed": 0, "facts": FACTS}, {"seed": 1, "facts": {**FACTS, "seed": 1}}], {"tiny"}, None),
        ([{"seed": 0}, {"seed": 1}], {"tiny"}, None),
        ([{"seed": 0}, {"seed": 0}], {"a", "b"}, "share a seed"),
        ([{"seed": 0, "facts": MEMORY}, {"seed": 1, "facts": LESS_MEMORY}], {"tiny"}, None),
        (
            [{"seed": 0, "facts": FACTS}, {"seed": 1, "facts": {"recipe": {"steps": 2}}}],
            {"a", "b"},
            "were trained other",
        ),
        ([{"seed": 0}, {"seed": 0, "is_best": True}], {"tiny"}, None),
    ],
)
def test_runs_of_different_studies_are_no_seeds_of_each_other(
    tmp_path: Path, make: SimpleNamespace, records: list[dict[str, Any]], backbones: set[str], said: str | None
) -> None:
    for name, record in zip("ab", records, strict=True):
        make.log(tmp_path / name / "logs" / "clean", [make.row(i, "a", "a", float(i % 2)) for i in range(4)])
        (tmp_path / name / "run.json").write_text(json.dumps({"backbone": "tiny", **record}))
    logs = load_logs([tmp_path / "a", tmp_path / "b"])
    assert set(logs.samples["backbone"]) == {info.backbone for info in logs.runs.values()} == backbones
    notes = [note for note in logs.notes if "no seeds of each other" in note]
    assert len(notes) == (said is not None)
    assert all(f"a, b: runs of tiny that {said}" in note for note in notes)


def test_a_certificate_covers_the_runs_of_its_study_alone(tmp_path: Path) -> None:
    own = {f"own-{seed}": RunInfo(f"own-{seed}", "tiny", seed, tmp_path / f"own-{seed}") for seed in (0, 1)}
    for seed, run in enumerate(own):
        (tmp_path / run).mkdir()
        record = {"state": "finished", "stages": {"finetune": {"steps": seed}}}
        (tmp_path / run / "run.json").write_text(json.dumps(record))
    inside = SimpleNamespace(runs=own)
    assert _notes(inside, tmp_path) == []  # type: ignore[arg-type] # its study was compared before
    assert _notes(inside, None)[0].startswith("finetune: the optimizer steps differ")  # type: ignore[arg-type]
    beside = SimpleNamespace(runs={**own, "other": RunInfo("other", "tiny", 2, None)})
    first, second = _notes(beside, tmp_path)  # type: ignore[arg-type]
    assert first == f"other: no run of {tmp_path}, whose certificate says nothing about it."
    assert second.startswith("finetune: the optimizer steps differ: own-0 0; own-1 1.")


def test_evaluations_that_differ_are_said(tmp_path: Path) -> None:
    def write(run: str, version: int, **row: Any) -> None:
        done = tmp_path / run / "logs" / "clean" / "done.json"
        done.parent.mkdir(parents=True, exist_ok=True)
        done.write_text(json.dumps({"version": version, "tasks": {"mine": {"n": 12, "task": "x", **row}}}))

    folders = {name: tmp_path / name for name in "abc"}
    for name in "abc":
        write(name, 5)
    assert unlike_evaluations(folders) == []
    write("b", 6, task="y")
    write("c", 5, n=6)
    assert unlike_evaluations({**folders, "none": tmp_path}) == [
        "the runs were evaluated by different versions of the evaluation (version 5: a, clean and c, clean; version 6: "
        "b, clean): evaluate them again.",
        "task mine: its own files differ between the evaluations of a, c and b: evaluate them again.",
        "task mine, clean: the runs answered different numbers of documents (a, b 12; c 6), as with another --limit.",
    ]


def test_a_record_that_was_edited_is_refused_and_one_without_a_hash_is_not(tmp_path: Path) -> None:
    text = sealed_json({"backbone": "tiny", "seed": 3})
    file = tmp_path / "run.json"
    file.write_text(text)
    assert read_run_info("run", tmp_path).seed == 3
    file.write_text(text.replace('"seed": 3', '"seed": 4'))
    with pytest.raises(LogError, match=r"run\.json was edited or is damaged.*Run the study again"):
        read_run_info("run", tmp_path)
    file.write_text(json.dumps({"backbone": "tiny", "seed": 4}))  # of an earlier version
    assert read_run_info("run", tmp_path).seed == 4


def test_a_certificate_that_was_edited_is_refused_and_one_without_a_hash_is_not(tmp_path: Path) -> None:
    content = {"equal": {"recipe": "abc"}, "backbones": {}, "confounds": ["a"]}
    file = tmp_path / "certificate.json"
    for text in (sealed_json(content), json.dumps(content)):
        file.write_text(text)
        found = read_certificate(tmp_path)
        assert found is not None
        assert found.confounds == ["a"]
    file.write_text(sealed_json(content).replace('"a"', ""))
    with pytest.raises(DataError, match=r"certificate\.json is not a certificate as it was written.*study check"):
        read_certificate(tmp_path)


def test_grades_of_different_judges_are_said(tmp_path: Path, make: SimpleNamespace) -> None:
    def judged(doc: int, judge: str | None) -> dict[str, Any]:
        ours = {"parsed": "a", "score": 0.5, "rungs": {}, "judged": {"judge": judge}}
        return make.row(doc, "a", "a", 0.5, backbones=ours)  # type: ignore[no-any-return]

    judges = {"a": ["gpt", "gpt"], "b": ["gpt", None], "c": ["other", "gpt"]}
    for run, names in judges.items():
        make.log(tmp_path / run, [judged(doc, judge) for doc, judge in enumerate(names)])
    assert not [note for note in load_logs([tmp_path / "a", tmp_path / "b"]).notes if "judges" in note]
    (said,) = [note for note in load_logs([tmp_path]).notes if "judges" in note]
    assert "different judges graded the runs" in said
    assert "a, b by gpt; c by gpt and other. Grade them by one." in said


def test_the_best_mean_over_tasks_is_chosen_and_of_equal_ones_the_smaller_rate(
    tmp_path: Path, make: SimpleNamespace
) -> None:
    right = {0.1: (20, 10), 0.01: (10, 20), 0.001: (5, 20)}  # of 40, in each of two tasks
    trials = {rate: tmp_path / f"lr{rate}" for rate in right}
    for rate, counts in right.items():
        for task, count in zip(("one", "two"), counts, strict=True):
            make.log(trials[rate], [make.row(i, "a", "a", float(i < count)) for i in range(40)], task=task)
    found = choose_learning_rate(trials, bootstrap=50, seed=3)
    assert found["learning_rate"] == 0.01
    first = found["trials"][0]
    assert (first["learning_rate"], first["score"], first["n"]) == (0.1, 0.375, 80)
    logs = load_logs([], {str(rate): folder for rate, folder in trials.items()})
    expected = scores(logs, bootstrap=50, seed=3).filter(run="0.1", task="one").to_dicts()[0]
    assert first["tasks"]["one"] == {key: expected[key] for key in ("value", "ci_low", "ci_high", "n", "n_missing")}
    halves = [(row["ci_high"] - row["ci_low"]) / 2 for row in first["tasks"].values()]
    half = math.hypot(*halves) / 2
    assert (first["ci_low"], first["ci_high"]) == pytest.approx((0.375 - half, 0.375 + half))


@pytest.mark.parametrize("constant", [True, False])
def test_a_constant_confidence_is_said_to_be(tmp_path: Path, make: SimpleNamespace, constant: bool) -> None:
    logprobs = [math.log(0.7 if constant else 0.5 + i / 400) for i in range(80)]
    extra = [[{"reasoning_tokens": {"logprob": logprob, "token_count": 1}}] for logprob in logprobs]
    rows = [make.row(i, "a", "ab"[i % 2], float(i % 2 == 0), token_counts=extra[i]) for i in range(80)]
    make.log(tmp_path / "a", rows)
    notes = calibration(read_samples([tmp_path]))["note"].to_list()
    assert notes
    assert all(("the confidence is constant" in (note or "")) == constant for note in notes)


def test_means_of_draws_leave_unknown_values_and_empty_groups_out() -> None:
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
    found = _mean_draws(np.array([1.0, math.nan, 0.0]), np.array([0, 1, 0]), weights)  # nothing in the third group
    np.testing.assert_array_equal(found, [0.5, 0.5, math.nan])

"""Reading logs: ours, foreign ones, broken ones."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from vlm_backbones.analysis.samples import load_logs, read_samples
from vlm_backbones.errors import ConfigError, LogError


def test_a_study_is_read_with_run_condition_backbone_and_confidence(study_dir: Path) -> None:
    frame = read_samples([study_dir])
    assert frame.height == 3 * 2 * 3 * 120
    assert set(frame["condition"]) == {"clean", "swap"}
    assert set(frame["run"]) == {"pocket-llama-1", "pocket-llama-2", "pocket-llama-3"}
    left_of = frame.filter((frame["question_type"] == "left_of") & (frame["condition"] == "clean"))
    assert set(left_of["confidence_kind"].drop_nulls()) == {"option"}
    assert left_of["confidence"].drop_nulls().is_between(0, 1).all()


def test_truncated_answers_have_no_sequence_confidence(study_dir: Path) -> None:
    frame = read_samples([study_dir])
    assert frame.filter(frame["doc_id"] == "97")["sequence_confidence"].null_count() == 18


def test_hostile_text_becomes_valid_utf8(study_dir: Path) -> None:
    answers = read_samples([study_dir]).filter(task="vqa_scene", condition="clean", doc_id="4")["answer"].to_list()
    assert answers == ["lone \\ud800 surrogate"] * 3


def test_multiple_choice_strings_give_options_answer_and_confidence(tmp_path: Path, make: SimpleNamespace) -> None:
    responses = [["-0.105361", "True"], ["-2.302585", "False"]]
    rows = [make.row(0, "0", "", None, acc=1.0) | {"filtered_resps": responses}]
    make.log(tmp_path / "m", rows)
    row = read_samples([tmp_path]).row(0, named=True)
    # softmax of (log .9, log .1) at the first
    assert row["confidence"] == pytest.approx(0.9, abs=1e-5)
    assert (row["answer"], row["correct"], row["confidence_kind"]) == ("0", True, "option")


def test_dict_valued_and_per_row_metrics(tmp_path: Path, make: SimpleNamespace) -> None:
    rows = [
        make.row(0, "yes", "Yes", None, mme_perception_score={"question_id": "a", "category": "color", "score": 1.0}),
        make.row(1, "no", "Yes", None, mme_cognition_score={"question_id": "b", "category": "code", "score": 0.0}),
    ]
    make.log(tmp_path / "m", rows)
    frame = read_samples([tmp_path])
    assert frame["score"].to_list() == [1.0, 0.0]
    assert frame["question_type"].to_list() == ["color", "code"]


def test_letters_are_compared_where_the_log_has_no_score(tmp_path: Path, make: SimpleNamespace) -> None:
    rows = [make.row(0, "B", "B. a dog", None), make.row(1, "B", "The answer is (C).", None)]
    make.log(tmp_path / "m", rows)
    logs = load_logs([tmp_path])
    assert logs.samples["score"].to_list() == [1.0, 0.0]
    assert any("--score-key" in note for note in logs.notes)


def test_missing_scores_are_missing_and_not_wrong(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", [make.row(0, "a", "a", 1.0), make.row(1, "a", "b", math.nan)])
    assert read_samples([tmp_path])["correct"].to_list() == [True, None]


def test_a_cut_last_line_is_reported_and_the_rest_used(tmp_path: Path, make: SimpleNamespace) -> None:
    path = make.log(tmp_path / "m", [make.row(0, "a", "a", 1.0)])
    path.write_text(path.read_text() + '{"doc_id": 1, "targ')
    logs = load_logs([tmp_path])
    assert logs.samples.height == 1
    assert "row 2" in logs.notes[0]


def test_gzip_cut_short_keeps_its_rows(tmp_path: Path, make: SimpleNamespace) -> None:
    text = "".join(json.dumps(make.row(i, "a", str(i * 7919), 1.0)) + "\n" for i in range(5000))
    path = tmp_path / "m" / "20260101_000000_samples_vqa.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(text.encode())[:-500])
    logs = load_logs([tmp_path])
    assert 0 < logs.samples.height < 5000
    assert "ends early" in " ".join(logs.notes)


def test_a_broken_row_names_file_and_row(tmp_path: Path, make: SimpleNamespace) -> None:
    path = make.log(tmp_path / "m", [make.row(0, "a", "a", 1.0)] * 3)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{broken", lines[2]]) + "\n")
    with pytest.raises(LogError, match=r"samples_vqa\.jsonl row 2"):
        read_samples([tmp_path])


def test_a_log_of_another_tool_is_refused(tmp_path: Path, make: SimpleNamespace) -> None:
    make.file(tmp_path / "samples_x.jsonl", [{"prompt": "a", "output": "b"}])
    with pytest.raises(LogError, match="not a sample of lmms-eval"):
        read_samples([tmp_path])


def test_missing_folder_and_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="does not exist"):
        read_samples([tmp_path / "nowhere"])
    with pytest.raises(LogError, match="log_samples"):
        read_samples([tmp_path])


def test_the_fullest_log_wins_then_the_newest(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", [make.row(i, "a", "old", 1.0) for i in range(3)], "20260101_000000")
    make.log(tmp_path / "m", [make.row(i, "a", "new", 1.0) for i in range(3)], "20260201_000000")
    make.log(tmp_path / "m", [make.row(0, "a", "limited", 1.0)], "20260301_000000")
    logs = load_logs([tmp_path])
    assert set(logs.samples["answer"]) == {"new"}
    assert sum("instead" in note for note in logs.notes) == 2


def test_names_of_runs(tmp_path: Path, make: SimpleNamespace) -> None:
    for part in ("one", "two"):
        make.log(tmp_path / part / "model", [make.row(0, "a", "a", 1.0)])
    clash = read_samples([tmp_path / "one", tmp_path / "two"])
    assert clash["run"].to_list() == ["one/model", "two/model"]
    named = read_samples([tmp_path / "one"], runs={"B": tmp_path / "two"})
    assert set(named["run"]) == {"model", "B"}


def test_cluster_key(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", [make.row(i, "a", "a", 1.0, question_id=241 + 1_000_000 * i) for i in range(3)])
    assert set(read_samples([tmp_path], cluster_key="question_id%1000000")["cluster"]) == {"241"}
    with pytest.raises(ConfigError, match="KEY%NUMBER"):
        read_samples([tmp_path], cluster_key="question_id % x")

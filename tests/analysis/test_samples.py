"""Reading logs: ours, foreign ones, broken ones."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from vlm_backbones.analysis import analyze
from vlm_backbones.analysis._computed_scores import answer_letter
from vlm_backbones.analysis.samples import load_logs, read_samples
from vlm_backbones.analysis.table_scores import scores
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


def test_the_columns_are_the_documented_ones(study_dir: Path) -> None:
    documented = "run task condition doc_id doc_key cluster question target answer parsed score correct confidence "
    documented += "confidence_kind option_logprobs image_key question_type frame targets"
    frame = read_samples([study_dir])
    assert set(documented.split()) < set(frame.columns)
    texts = {name for name, kind in frame.schema.items() if kind == pl.String}
    assert set(documented.split()) - texts == {"score", "correct", "confidence", "option_logprobs"}


NO_METRICS = "doc_id index id idx image_id question_id category question_type split filter my_id my_index"


@pytest.mark.parametrize("name", NO_METRICS.split())
def test_a_key_that_names_a_sample_is_no_metric_of_it(tmp_path: Path, make: SimpleNamespace, name: str) -> None:
    rows = [make.row(place, "a", "a", 1.0) | {name: place} for place in range(3)]
    make.log(tmp_path / "m", rows)
    assert set(scores(load_logs([tmp_path]))["metric"]) == {"exact_match"}


@pytest.mark.parametrize(("count", "expected"), [(2, 0.5), (1, 0.25), (0, None), (-1e-3, None), (None, None)])
def test_a_mean_over_tokens_needs_their_number(
    tmp_path: Path, make: SimpleNamespace, count: float | None, expected: float | None
) -> None:
    extras = {"logprob": math.log(0.25), "token_count": count}
    row = make.row(0, "x", "x", 1.0) | {"token_counts": [{"reasoning_tokens": extras}]}
    make.log(tmp_path / "m", [row])
    (read,) = read_samples([tmp_path]).to_dicts()
    assert read["sequence_confidence"] == pytest.approx(0.25)
    assert read["per_token_confidence"] == (None if expected is None else pytest.approx(expected))


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


def test_linked_folders_are_read_each_once(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "scratch" / "m", [make.row(0, "a", "a", 1.0)])
    root = tmp_path / "runs"
    root.mkdir()
    (root / "m").symlink_to(tmp_path / "scratch" / "m")
    (root / "same").symlink_to(tmp_path / "scratch" / "m")
    (root / "round").symlink_to(root)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    logs = load_logs([root])
    assert logs.samples.height == 1
    assert list(logs.runs) == ["m"]


def test_logs_of_two_checkpoints_in_one_folder_are_said_to_be_no_model(tmp_path: Path, make: SimpleNamespace) -> None:
    def rows(checkpoint: Any) -> list[dict[str, Any]]:
        extras = [{"reasoning_tokens": {"checkpoint": checkpoint, "condition": "clean"}}]
        return [make.row(0, "a", "a", 1.0, token_counts=extras)]

    for task, checkpoint in (("vqa", "1" * 64), ("ocr", "2" * 64), ("stock", None)):
        make.log(tmp_path / "m", rows(checkpoint), task=task)
        make.log(tmp_path / "n", rows("1" * 64), task=task)
    (note,) = (note for note in load_logs([tmp_path]).notes if "checkpoint" in note)
    assert note.startswith(
        "m: different checkpoints answered ocr / clean (222222222222); vqa / clean (111111111111): it is not one model."
    )


def test_a_run_whose_folder_is_a_link_keeps_its_name(tmp_path: Path, make: SimpleNamespace) -> None:
    where_there_is_room = tmp_path / "scratch" / "volume 7"
    make.log(where_there_is_room / "logs" / "clean" / "m", [make.row(0, "a", "a", 1.0)])
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "llama-1-seed0").symlink_to(where_there_is_room)
    assert list(load_logs([tmp_path / "study"]).runs) == ["llama-1-seed0"]


def test_a_score_is_called_as_its_task_calls_it(tmp_path: Path, make: SimpleNamespace) -> None:
    def rows(*scores: float | None, strict: float = 0.0) -> list[dict[str, Any]]:
        own = [{"strict": strict, "accuracy": score, "backbones": {"score": score}} for score in scores]
        return [make.row(place, "a", "a", None, **values) for place, values in enumerate(own)]

    make.log(tmp_path / "a" / "m", rows(1.0, 0.25, None))
    make.log(tmp_path / "b" / "n", rows(0.0, 0.0))
    assert load_logs([tmp_path / "a", tmp_path / "b"]).headline == {"vqa": "accuracy"}
    assert load_logs([tmp_path / "b"]).headline == {"vqa": "strict"}  # nothing tells the two apart
    make.log(tmp_path / "c" / "o", [make.row(0, "a", "a", None, accuracy=1.0, backbones={"score": 0.5})])
    assert load_logs([tmp_path / "c"]).headline == {"vqa": "score"}


def test_a_log_that_is_blank_lines_by_the_million_is_refused(tmp_path: Path, make: SimpleNamespace) -> None:
    row = json.dumps(make.row(0, "red", "red", 1.0))
    for blanks, is_read in ((2**20, True), (2**20 + 1, False)):
        path = tmp_path / str(blanks) / "20260101_120000_samples_t.jsonl.gz"
        path.parent.mkdir()
        path.write_bytes(gzip.compress(b"\n" * blanks + row.encode()))
        if is_read:
            assert read_samples([path]).height == 1
        else:
            with pytest.raises(LogError, match="row 1048577: more than a megabyte of blank lines"):
                read_samples([path])


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


def test_as_much_of_a_path_goes_before_as_tells_two_runs_apart(tmp_path: Path, make: SimpleNamespace) -> None:
    for part, score in (("expA", 1.0), ("expB", 0.0)):
        make.log(tmp_path / part / "logs" / "ckpt", [make.row(0, "a", "a", score)])
    frame = read_samples([tmp_path / "expA" / "logs", tmp_path / "expB" / "logs"])
    assert frame.select("run", "score").rows() == [("expA/logs/ckpt", 1.0), ("expB/logs/ckpt", 0.0)]
    itself = read_samples([tmp_path / part / "logs" / "ckpt" for part in ("expA", "expB")])
    assert itself["run"].to_list() == ["expA/logs/ckpt", "expB/logs/ckpt"]
    named = read_samples([tmp_path / "expB"], runs={"ckpt": tmp_path / "expA"})
    assert sorted(named["run"]) == ["ckpt", "expB/ckpt"]


def test_two_models_of_one_folder_name_under_one_path_are_two_runs(tmp_path: Path, make: SimpleNamespace) -> None:
    for part, score in (("expA", 1.0), ("expB", 0.0)):
        make.log(tmp_path / part / "model", [make.row(0, "a", "a", score)])
        make.log(tmp_path / part / "RUN" / "logs" / "clean" / "ckpt", [make.row(0, "a", "a", score)])
    logs = load_logs([tmp_path])
    assert sorted(logs.samples.select("run", "score").rows()) == [
        ("expA/RUN", 1.0), ("expA/model", 1.0), ("expB/RUN", 0.0), ("expB/model", 0.0)
    ]  # fmt: skip
    assert logs.notes == []


def test_tasks_in_folders_of_one_name_are_one_run_and_that_is_said(tmp_path: Path, make: SimpleNamespace) -> None:
    for task in ("mme", "pope"):
        make.log(tmp_path / task / "model", [make.row(0, "a", "a", 1.0)], task=task)
    logs = load_logs([tmp_path])
    assert logs.samples.select("run", "task").rows() == [("model", "mme"), ("model", "pope")]
    assert "mme/model and " in logs.notes[0]
    assert "--run NAME=PATH" in logs.notes[0]


def test_conditions_of_one_run_folder_are_one_run_however_they_are_named(tmp_path: Path, make: SimpleNamespace) -> None:
    paths = [tmp_path / "RUN" / "logs" / condition for condition in ("clean", "swap")]
    for path in paths:
        make.log(path / "ckpt", [make.row(0, "a", "a", 1.0)])
    assert read_samples(paths).select("run", "condition").rows() == [("RUN", "clean"), ("RUN", "swap")]


def test_a_run_that_is_named_twice_is_said(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", [make.row(0, "a", "a", 1.0)])
    assert "count once" in load_logs([tmp_path / "m", tmp_path / "m"]).notes[0]
    twice = load_logs([], {"one": tmp_path / "m", "two": tmp_path / "m"})
    assert "the runs one and two read the same files" in twice.notes[0]


def test_one_bad_file_does_not_hide_the_others(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", [make.row(0, "a", "a", 1.0)])
    make.file(tmp_path / "x" / "samples_x.jsonl", [{"prompt": "a", "output": "b"}])
    logs = load_logs([tmp_path])
    assert logs.samples["run"].to_list() == ["m"]
    assert "not a sample of lmms-eval" in logs.notes[0]


def test_a_cut_row_before_an_appended_run_is_left_out(tmp_path: Path, make: SimpleNamespace) -> None:
    path = make.log(tmp_path / "m", [make.row(i, "a", "old", 0.0) for i in range(3)])
    again = "".join(json.dumps(make.row(i, "a", "new", 1.0)) + "\n" for i in range(3))
    path.write_text(path.read_text()[:-30] + "\n" + again)
    logs = load_logs([tmp_path])
    assert logs.samples["answer"].to_list() == ["new"] * 3
    assert "row 3 is cut off" in logs.notes[0]


def test_a_task_with_two_targets_for_a_document_is_left_out_alone(tmp_path: Path, make: SimpleNamespace) -> None:
    for run, target in (("a", "x"), ("b", "y")):
        make.log(tmp_path / run, [make.row(0, "x", "x", 1.0)], task="good")
        make.log(tmp_path / run, [make.row(0, target, "x", 1.0)], task="bad")
    logs = load_logs([tmp_path])
    assert set(logs.samples["task"]) == set(logs.headline) == {"good"}
    assert any("doc_id 0 has different targets" in note for note in logs.notes)
    with pytest.raises(LogError, match="doc_id 0 has different targets"):
        load_logs([tmp_path / run / "20260101_120000_samples_bad.jsonl" for run in "ab"])


def test_a_run_without_a_common_question_is_named(tmp_path: Path, make: SimpleNamespace) -> None:
    for run, first in (("a", 0), ("b", 0), ("c", 500)):
        make.log(tmp_path / run, [make.row(first + i, "x", "x", 1.0) for i in range(3)])
    assert "c has no question in common" in load_logs([tmp_path]).notes[0]
    with pytest.raises(LogError, match="no question in common"):
        load_logs([tmp_path / "a", tmp_path / "c"])


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({"score_key": "exact_mach"}, "exact_match"),
        ({"score_key": "judged.scores.7"}, "judged.scores.1"),
        ({"cluster_key": "question_ix%10"}, "question_id"),
    ],
)
def test_a_key_that_no_sample_has_is_refused(
    tmp_path: Path, make: SimpleNamespace, asked: dict[str, str], meant: str
) -> None:
    row = make.row(0, "a", "a", 1.0, question_id=7, judged={"scores": [8, 6]})
    make.log(tmp_path / "m", [row])
    with pytest.raises(ConfigError, match=f"Did you mean '{meant}'"):
        load_logs([tmp_path], **asked)


def test_a_judges_points_have_no_threshold(tmp_path: Path, make: SimpleNamespace) -> None:
    """LLaVA-in-the-wild: reference and model, 1 to 10."""
    for run, points in (("a", [6, 1]), ("b", [9, 4])):
        rows = [make.row(i, "t", "x", None, judged={"scores": [8, score]}) for i, score in enumerate(points)]
        make.log(tmp_path / run, rows)
    logs = load_logs([tmp_path], score_key="judged.scores.1")
    assert logs.samples["score"].to_list() == [6.0, 1.0, 9.0, 4.0]
    assert logs.samples["correct"].null_count() == 4
    assert "runs from 1 to 9" in logs.without_threshold["vqa"]
    assert any("--score-key" in note for note in logs.notes)


def test_an_error_rate_has_no_threshold(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", [make.row(0, "t", "x", None, wer=0.7)])
    logs = load_logs([tmp_path], score_key="wer")
    assert logs.samples["correct"].to_list() == [None]
    assert "better the lower" in logs.without_threshold["vqa"]


def choice_row(make: SimpleNamespace, doc: int, target: str) -> dict[str, object]:
    """Three numbered options, the second the most probable."""
    return make.row(doc, target, "", None) | {"filtered_resps": [["-3", "False"], ["-1", "True"], ["-2", "False"]]}


def test_letters_name_the_options_where_targets_are_letters(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", [choice_row(make, 0, "B"), choice_row(make, 1, "C"), choice_row(make, 2, "1")])
    frame = read_samples([tmp_path])
    assert frame["score"].to_list() == [1.0, 0.0, 1.0]
    assert frame["answer"].to_list() == ["B", "B", "1"]
    assert [option["option"] for option in frame["option_logprobs"][0]] == ["A", "B", "C"]
    assert frame["confidence"].null_count() == 0


def test_a_target_that_is_no_option_is_missing_and_said(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", [choice_row(make, 0, "B"), choice_row(make, 1, "E"), choice_row(make, 2, "7")])
    logs = load_logs([tmp_path])
    assert logs.samples["score"].to_list() == [1.0, None, None]
    assert "target not in the options in 2 of 3 samples (first: doc_id 1, target 'E', options A, B, C)" in logs.notes[0]


def test_coordinates_are_scored_where_the_log_has_no_metric(tmp_path: Path, make: SimpleNamespace) -> None:
    """One degree of latitude is 111 km."""
    rows = [make.row(i, '{"lat": 0.0, "lon": 100.0}', said, None) for i, said in enumerate(["0.5N, 100E", "1, 100"])]
    make.log(tmp_path / "m", rows)
    logs = load_logs([tmp_path])
    assert logs.samples["score"].to_list() == [1.0, 0.0]
    assert any("within 100 km" in note for note in logs.notes)


def test_a_target_that_is_no_place_is_missing_and_the_others_are_measured(
    tmp_path: Path, make: SimpleNamespace
) -> None:
    rows = [make.row(i, '{"lat": 0.0, "lon": 100.0}', f"{i}N, 100E", None) for i in range(5)]
    make.log(tmp_path / "m", [rows[0] | {"target": "somewhere"}, *rows[1:]], task="quakes")
    report = analyze([tmp_path], tmp_path / "out", bootstrap=100)
    row = pl.read_parquet(tmp_path / "out" / "tables" / "coordinates.parquet").row(0, named=True)
    assert (row["n"], row["n_missing"], row["parsed"]) == (4, 1, 1.0)
    assert (
        "the target is no place in 1 of 5 samples (first: doc_id 0, target &#39;somewhere&#39;)" in report.read_text()
    )


def test_a_run_without_any_score_is_named(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "one", [make.row(i, "a", "a", math.nan) for i in range(3)])
    make.log(tmp_path / "two", [make.row(i, "a", "a", 1.0) for i in range(3)])
    assert any("no sample of one has a score (exact_match)" in note for note in load_logs([tmp_path]).notes)


def test_one_evaluation_under_two_names_is_said(tmp_path: Path, make: SimpleNamespace) -> None:
    rows = [make.row(i, "a", "ab"[i % 2], float(i % 2 == 0)) for i in range(30)]
    for run, logged in (("one", rows), ("copy", rows), ("other", [*rows[1:], rows[1] | {"doc_id": 0}])):
        make.log(tmp_path / run, logged)
    (note,) = load_logs([tmp_path]).notes
    assert note.startswith("copy and one gave the same answer with the same score to every question")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A", "A"), ("(b)", "B"), ("B. a dog", "B"), ("The answer is (C).", "C"), ("I think C", "C"), ("**D**", "D"),
        ("A man is riding", None), ("the answer is A man", None), ("a dog", None), ("I think a dog", None), ("", None),
    ],
)  # fmt: skip
def test_the_letter_of_an_answer(answer: str, letter: str | None) -> None:
    assert answer_letter(answer) == letter


def test_cluster_key(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", [make.row(i, "a", "a", 1.0, question_id=241 + 1_000_000 * i) for i in range(3)])
    assert set(read_samples([tmp_path], cluster_key="question_id%1000000")["cluster"]) == {"241"}
    with pytest.raises(ConfigError, match="KEY%NUMBER"):
        read_samples([tmp_path], cluster_key="question_id % x")

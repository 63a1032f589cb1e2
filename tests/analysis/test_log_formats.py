"""Every shape in which lmms-eval 0.4 to 0.7 writes samples is read alike; rows are as those versions wrote them."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_backbones.analysis._option_column import OptionColumn
from vlm_backbones.analysis._responses import read_responses
from vlm_backbones.analysis._values import metric_number
from vlm_backbones.analysis.samples import load_logs, read_samples
from vlm_backbones.errors import ConfigError

HASH = "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"
LOGPROBS = ["-2.302585", "-0.105361"]  # of 0.1 and 0.9
PAIRS = [[LOGPROBS[0], "False"], [LOGPROBS[1], "True"]]
COUNTS = [{"input_tokens": 700, "output_tokens": 1, "reasoning_tokens": 0}]

ASKED: dict[str, Any] = {"doc_id": 0, "target": "yes", "doc_hash": HASH, "input": "Is it?", "exact_match": 1.0}

# filtered_resps is a list of one answer up to 0.6 and the answer itself from 0.7; resps is left out where it says the
# same. 0.3 kept doc and arguments.
GENERATED: dict[str, dict[str, Any]] = {
    "0.3": ASKED | {
        "doc": {"question": "Is it?", "category": None}, "arguments": {"0": "x"},
        "resps": [["Yes"]], "filtered_resps": ["Yes"],
    },
    "0.4 to 0.6": ASKED | {"filtered_resps": ["Yes"]},
    "0.6, filter that changed the answer": ASKED | {"resps": [["Well, Yes"]], "filtered_resps": ["Yes"]},
    "0.7": ASKED | {"filtered_resps": "Yes", "token_counts": COUNTS},
    "0.7, filter that changed the answer": ASKED | {"resps": ["Well, Yes"], "filtered_resps": "Yes"},
    "0.7, model that counts no tokens": ASKED | {"filtered_resps": "Yes", "token_counts": [None]},
    "np.float32 metric": ASKED | {"filtered_resps": "Yes", "exact_match": "1.0"},
    "metric in a list": ASKED | {"filtered_resps": "Yes", "exact_match": [True]},
    "answer among resps only": ASKED | {"resps": [["Yes"]]},
}  # fmt: skip
CHOSEN: dict[str, dict[str, Any]] = {
    "0.4 to 0.6": {
        "doc_id": 3, "target": "1", "resps": [[pair] for pair in PAIRS], "filtered_resps": PAIRS, "doc_hash": HASH,
        "acc": 1.0, "input": "Which?",
    },
    "0.7": {
        "doc_id": 3, "target": "1", "resps": [[pair] for pair in PAIRS], "filtered_resps": PAIRS,
        "token_counts": [None, None], "doc_hash": HASH, "acc": 1.0, "input": "Which?",
    },
    "resps left out": {
        "doc_id": 3, "target": "1", "filtered_resps": PAIRS, "doc_hash": HASH, "acc": 1.0, "input": "Which?",
    },
    "no metric": {"doc_id": 3, "target": "1", "filtered_resps": PAIRS, "doc_hash": HASH, "input": "Which?"},
}  # fmt: skip


@pytest.mark.parametrize("name", GENERATED)
def test_generated_answers(name: str, tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "model", [GENERATED[name]])
    row = read_samples([tmp_path]).row(0, named=True)
    assert (row["run"], row["task"], row["condition"], row["doc_id"]) == ("model", "vqa", "clean", "0")
    assert (row["question"], row["target"], row["answer"], row["parsed"]) == ("Is it?", "yes", "Yes", "Yes")
    assert (row["score"], row["correct"], row["confidence"], row["option_logprobs"]) == (1.0, True, None, None)


@pytest.mark.parametrize("name", CHOSEN)
def test_options_with_log_probabilities(name: str, tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "model", [CHOSEN[name]])
    row = read_samples([tmp_path]).row(0, named=True)
    assert (row["answer"], row["score"], row["confidence_kind"]) == ("1", 1.0, "option")
    assert row["confidence"] == pytest.approx(0.9, abs=1e-6)
    assert row["option_logprobs"] == [{"option": "0", "logprob": -2.302585}, {"option": "1", "logprob": -0.105361}]


def test_gzip_is_read_as_plain(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in GENERATED.values())
    for folder, opened in (("plain", open), ("packed", gzip.open)):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / f"20260101_120000_samples_vqa.jsonl{'.gz' if folder == 'packed' else ''}"
        with opened(path, "wt", encoding="utf-8") as log:
            log.write(lines)
    frame = read_samples([tmp_path])
    plain, packed = (frame.filter(run=run).drop("run", "backbone") for run in ("plain", "packed"))
    assert plain.equals(packed)


def test_mixed_shapes_in_one_file_keep_their_order(tmp_path: Path, make: SimpleNamespace) -> None:
    rows = [row | {"doc_id": place} for place, row in enumerate([*GENERATED.values(), *CHOSEN.values()])]
    make.log(tmp_path / "model", rows)
    frame = read_samples([tmp_path])
    assert frame["doc_id"].to_list() == [str(place) for place in range(len(rows))]
    assert frame["answer"].to_list() == ["Yes"] * len(GENERATED) + ["1"] * len(CHOSEN)


def test_mappings_as_metrics(tmp_path: Path, make: SimpleNamespace) -> None:
    """POPE: every row under three keys; MMBench: no correctness, so the letter is compared."""
    pope = {"question_id": "4", "score": 1.0, "prediction": "yes", "ground_truth": "yes"}
    keys = ("pope_accuracy", "pope_precision", "pope_yes_ratio")
    make.log(tmp_path / "m", [make.row(0, "yes", "Yes", None, **dict.fromkeys(keys, pope))], task="pope")
    mmbench = {"index": 1, "question": "q", "answer": "B", "prediction": "B. a dog", "category": "identity"}
    make.log(tmp_path / "m", [make.row(1, "B", "B. a dog", None, gpt_eval_score=mmbench)], task="mmbench_en_dev")
    logs = load_logs([tmp_path])
    assert dict(logs.samples.select("task", "score").iter_rows()) == {"pope": 1.0, "mmbench_en_dev": 1.0}
    assert logs.metrics["metric"].to_list() == list(keys)
    assert [note.split(":")[0] for note in logs.notes if "--score-key" in note] == ["mmbench_en_dev"]
    assert logs.samples.filter(task="mmbench_en_dev")["question_type"].to_list() == ["identity"]


# What process_results of these tasks gives in 0.7, without what says nothing about correctness.
STOCK: dict[str, tuple[dict[str, Any], str, str, float | None]] = {
    "mmmu_val": ({"mmmu_acc": {"answer": "C", "parsed_pred": ["C"]}}, "C", "It must be the third.", 1.0),
    "mmmu_val, 0.4": ({"mmmu_acc": {"answer": "C", "parsed_pred": "D"}}, "C", "C is wrong.", 0.0),
    "mmmu_val, open": ({"mmmu_acc": {"answer": "4.5", "parsed_pred": [["4.5"]]}}, "4.5", "4.5", None),
    "mmmu_pro, ten options": ({"mmmu_acc": {"answer": "J", "parsed_pred": "J"}}, "J", "(J)", 1.0),
    "mmstar": ({"math": {"score": 1.0}, "average": {"score": 1.0}}, "B", "b", 1.0),
    "blink": ({"blink_acc": {"gt_content": "A", "pred_parsed": "B", "is_correct": False}}, "(A)", "(B)", 0.0),
    "mathvista": ({"llm_as_judge_eval": {"answer": "9", "true_false": True}}, "9", "nine", 1.0),
    "seedbench": ({"seed_all": {"pred": "D", "answer": "D"}}, "D", "D. a cup", 1.0),
    "mmvp": ({"mmvp_accuracy": {"gt": "A", "is_correct": "True"}}, "A", "the first", 1.0),
    "mmbench": ({"gpt_eval_score": {"answer": "A", "prediction": ""}}, "A", "", 0.0),
}


@pytest.mark.parametrize("name", STOCK)
def test_stock_tasks_that_keep_correctness_in_a_mapping(name: str, tmp_path: Path, make: SimpleNamespace) -> None:
    metrics, target, answer, score = STOCK[name]
    make.log(tmp_path / "m", [make.row(0, target, answer, None, **metrics)])
    logs = load_logs([tmp_path])
    assert logs.samples["score"].to_list() == [score]
    assert logs.headline["vqa"] == ("average" if name == "mmstar" else logs.headline["vqa"])


def test_metrics_that_differ_by_row_are_counted_where_they_stand(tmp_path: Path, make: SimpleNamespace) -> None:
    """MME logs one key for perception and another for cognition."""
    rows = [
        make.row(i, "yes", "Yes", None, **{f"mme_{kind}_score": {"category": kind, "score": float(i % 2)}})
        for i, kind in enumerate(["perception", "cognition", "perception"])
    ]
    make.log(tmp_path / "m", rows)
    logs = load_logs([tmp_path])
    assert logs.samples["score"].to_list() == [0.0, 1.0, 0.0]
    assert logs.headline == {"vqa": "accuracy"}  # neither total is the mean of these
    assert dict(logs.metrics.group_by("metric").len().iter_rows()) == {
        "mme_perception_score": 2, "mme_cognition_score": 1,
    }  # fmt: skip


def test_continuous_scores_stay_continuous(tmp_path: Path, make: SimpleNamespace) -> None:
    rows = [make.row(0, "a", "a", 0.3), make.row(1, "a", "b", None, gpt_eval_score={"score": "0.7"})]
    make.log(tmp_path / "m", rows)
    frame = read_samples([tmp_path])
    assert frame["score"].to_list() == [0.3, 0.7]
    assert frame["correct"].to_list() == [False, True]


def test_bare_nan_is_a_metric_without_a_value(tmp_path: Path, make: SimpleNamespace) -> None:
    path = make.log(tmp_path / "m", [make.row(0, "a", "a", math.nan), make.row(1, "a", "a", 1.0)])
    assert "NaN" in path.read_text()
    logs = load_logs([tmp_path])
    assert logs.samples["score"].to_list() == [None, 1.0]
    assert logs.metrics["value"].is_nan().to_list() == [True, False]


def test_ranks_may_interleave(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "one", [make.row(i, "a", str(i), 1.0) for i in range(6)])
    make.log(tmp_path / "two", [make.row(i, "a", str(i), 1.0) for i in (0, 2, 4, 1, 3, 5)])
    frame = read_samples([tmp_path]).sort("run", "doc_id")
    one, two = (frame.filter(run=run).drop("run", "backbone") for run in ("one", "two"))
    assert one.equals(two)


def test_of_two_runs_in_one_file_the_last_counts(tmp_path: Path, make: SimpleNamespace) -> None:
    path = make.log(tmp_path / "m", [make.row(i, "a", "first", 0.0) for i in range(5)])
    again = "".join(json.dumps(make.row(i, "a", "second", 1.0)) + "\n" for i in range(3))
    path.write_text(path.read_text() + again)
    logs = load_logs([tmp_path])
    assert logs.samples["answer"].to_list() == ["second"] * 3 + ["first"] * 2
    assert logs.metrics["value"].to_list() == [1.0] * 3 + [0.0] * 2
    assert "3 documents appear more than once" in logs.notes[0]


def test_a_limited_run_is_read_as_it_is(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "all", [make.row(i, "a", "a", 1.0) for i in range(8)])
    make.log(tmp_path / "limited", [make.row(i, "a", "a", 1.0) for i in range(3)])
    assert dict(read_samples([tmp_path]).group_by("run").len().iter_rows()) == {"all": 8, "limited": 3}


def test_broken_utf8_and_numbers_as_text_are_kept(tmp_path: Path, make: SimpleNamespace) -> None:
    path = make.log(tmp_path / "m", [make.row("7", 5, "a", 1.0)])
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"caf\xe9"'))
    row = read_samples([tmp_path]).row(0, named=True)
    assert (row["doc_id"], row["target"], row["answer"]) == ("7", "5", "caf\ufffd")


@pytest.mark.parametrize("spelt", ["5", " 5.25 ", ".5", "-1e3", "+2E-1", "nan\n"])
def test_a_number_that_is_written_as_text_is_a_number(spelt: str) -> None:
    assert metric_number(spelt) == pytest.approx(float(spelt), nan_ok=True)


@pytest.mark.parametrize("spelt", ["5.", "inf", "1_0", "", "1" * 300_000 + "x", " " * 300_000 + "x"])
def test_a_text_that_is_no_number_is_none_however_long(spelt: str) -> None:
    assert metric_number(spelt) is None


def test_half_characters_and_endless_numbers_are_shown_as_text(tmp_path: Path, make: SimpleNamespace) -> None:
    rows = [make.row(10**40, "a", "a", 1.0, **{"\ud800_acc": 1.0}), make.row("b", "a", "a", 1.0)]
    make.log(tmp_path / "m", rows)
    assert set(read_samples([tmp_path])["doc_id"]) == {str(10**40), "b"}
    with pytest.raises(ConfigError, match="no sample has this key"):
        read_samples([tmp_path], score_key="\udcff")


def test_a_cluster_number_too_large_to_be_exact_is_refused(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", [make.row(0, "a", "a", 1.0, question_id=10**25 + 1)])
    with pytest.raises(ConfigError, match="read exactly"):
        read_samples([tmp_path], cluster_key="question_id%1000")


logprob = st.floats(-30, 0).map(lambda value: f"{value:.6f}")
pairs = st.lists(st.tuples(logprob, st.sampled_from(["True", "False"])).map(list), min_size=1, max_size=5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(pairs, st.text(max_size=3), st.lists(st.text(max_size=3), max_size=2)), min_size=1))
def test_responses_read_together_are_as_read_alone(responses: list[Any]) -> None:
    together, options = read_responses(responses)
    for place, response in enumerate(responses):
        answers, alone = read_responses([response])
        assert together[place] == answers[0]
        assert options.at(place) == alone.at(0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.text("abc", min_size=1), st.none() | st.floats(-30, 0), max_size=4), min_size=1))
def test_confidence_is_the_softmax_at_the_answer(samples: list[dict[str, float | None]]) -> None:
    column = OptionColumn.of(samples)
    answers = [next(iter(options), None) for options in samples]
    for options, answer, found in zip(samples, answers, column.confidence(answers), strict=True):
        known = [value for value in options.values() if value is not None]
        value = None if answer is None else options[answer]
        if value is None:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(math.exp(value) / math.fsum(map(math.exp, known)), rel=1e-9)


def test_confidence_needs_an_answer_among_the_options() -> None:
    column = OptionColumn.of([{"Red": -1.0}, {"Red": -1.0}, {"Red": None}, {}])
    assert column.confidence([" red. ", "blue", "red", "red"]).tolist()[0] == 1.0
    assert pl.Series(column.confidence([None, "blue", "red", "red"])).is_nan().all()
    assert column.series().to_list()[2:] == [[{"option": "Red", "logprob": None}], None]

"""Totals of POPE, MME, ScienceQA and TextVQA, computed again from the logged samples, are those of the results file."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import lmms_eval.models
import lmms_eval.tasks
import numpy as np
import polars as pl
import pytest
import yaml
from datasets import Dataset, Features, Image, List, Value
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.loggers import EvaluationTracker
from lmms_eval.tasks import TaskManager
from PIL import Image as PILImage

from vlm_backbones.analysis import read_samples
from vlm_backbones.analysis.leaderboard.sources import read_standing
from vlm_backbones.tasks import data, judge

STOCK = Path(lmms_eval.tasks.__file__).parent
OWN = Path(data.__file__).parent
PICTURE = PILImage.new("RGB", (8, 8), "red")
TEN = List(Value("string"))
ANSWERS = ["yes", "No", "Yes.", "maybe", "no", "YES", "A", "B. blue", "c", "Two", "a cat", "", "y", "No, not"]


class Answerer(lmms):
    """Gives seeded answers: the scoring is under test, not a model."""

    def generate_until(self, requests: list[Instance]) -> list[str]:
        rng = np.random.default_rng(5)
        return [ANSWERS[int(rng.integers(len(ANSWERS)))] for _ in requests]

    def loglikelihood(self, requests: list[Instance]) -> Any:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Instance]) -> Any:
        raise NotImplementedError


def rows() -> dict[str, tuple[str, str, list[dict[str, Any]], dict[str, Any]]]:
    """Task -> stock YAML, split, rows in the real schema, features beside the image."""
    text, count = Value("string"), 60
    rng = np.random.default_rng(0)
    perception, cognition = ["existence", "count", "OCR"], ["code_reasoning"]
    mme = [
        {"question_id": f"{category}/{place}.png", "question": f"Is it? {answer} Please answer yes or no.",
         "answer": answer, "category": category}
        for category in (*perception, *cognition) for place in range(8) for answer in ("Yes", "No")
    ]  # fmt: skip
    pope = [
        {"id": str(i), "question_id": str(i), "question": "Is there a cat?", "answer": ("yes", "no")[i % 2],
         "image_source": "COCO_x", "category": "adversarial"}
        for i in range(count)
    ]  # fmt: skip
    science = [
        {"question": "Which?", "choices": ["red", "blue", "green"], "answer": int(rng.integers(3)), "hint": "",
         "lecture": "", "solution": ""}
        for _ in range(count)
    ]  # fmt: skip
    reading = [
        {"question_id": i, "question": "what is it", "ocr_tokens": [], "image_id": str(i),
         "answers": rng.choice(["2", "a cat", "Cat", "yes", "no"], 10).tolist()}
        for i in range(count)
    ]  # fmt: skip
    vet = [
        {"question_id": f"v1_{i}", "question": "What is x?", "answer": "-1<AND>-5", "image_source": "x",
         "capability": ("rec,ocr", "math")[i % 2], "imagename": f"v1_{i}.png"}
        for i in range(6)
    ]  # fmt: skip
    return {
        "mme_tiny": ("mme/mme.yaml", "test", mme, dict.fromkeys(mme[0], text)),
        "pope_tiny": ("pope/pope.yaml", "test", pope, dict.fromkeys(pope[0], text)),
        "scienceqa_tiny": (
            "scienceqa/scienceqa_img.yaml", "test", science,
            {**dict.fromkeys(science[0], text), "choices": TEN, "answer": Value("int64")},
        ),
        "textvqa_tiny": (
            "textvqa/textvqa_val.yaml", "validation", reading,
            {**dict.fromkeys(reading[0], text), "answers": TEN, "ocr_tokens": TEN, "question_id": Value("int64")},
        ),
        "textvqa_study_tiny": (
            str(OWN / "textvqa_study" / "textvqa_study.yaml"), "validation", reading,
            {**dict.fromkeys(reading[0], text), "answers": TEN, "ocr_tokens": TEN, "question_id": Value("int64")},
        ),
        "mmvet_study_tiny": (str(OWN / "mmvet_study" / "mmvet_study.yaml"), "test", vet, dict.fromkeys(vet[0], text)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stock tasks on local rows, logged as `lmms-eval --log_samples` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OPENAI_API_KEY", raising=False)
        judge._judge.cache_clear()
        return evaluated(tmp_path_factory.mktemp("stock"))


def evaluated(folder: Path) -> Path:
    from datasets import DatasetDict

    (folder / "tasks").mkdir()
    for task, (source, split, examples, features) in rows().items():
        table = [{"image": PICTURE, **example} for example in examples]
        made = Dataset.from_list(table, features=Features({"image": Image(), **features}))
        DatasetDict({split: made}).save_to_disk(str(folder / "data" / task))
        config = {
            "include": str(STOCK / source), "task": task, "dataset_path": str(folder / "data" / task),
            "dataset_name": None, "dataset_kwargs": {"load_from_disk": True},
        }  # fmt: skip
        (folder / "tasks" / f"{task}.yaml").write_text(yaml.safe_dump(config))
    out = folder / "logs" / "model"
    manager = TaskManager("ERROR", include_path=str(folder / "tasks"), include_defaults=False)
    tracker = EvaluationTracker(output_path=str(out))
    flags = Namespace(
        model="answerer", model_args="pretrained=x/model", tasks=",".join(rows()), batch_size=1, limit=None,
        output_path=str(out), log_samples=True, process_with_media=False, reasoning_tags=None,
        agentic_trace_mode="basic", predict_only=False, verbosity="ERROR",
    )  # fmt: skip
    results = simple_evaluate(
        model=Answerer(), tasks=list(rows()), task_manager=manager, log_samples=True, evaluation_tracker=tracker,
        cli_args=flags, datetime_str="20260101_000000", bootstrap_iters=0,
    )  # fmt: skip
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples, datetime_str="20260101_000000")
    for name in results["configs"]:
        tracker.save_results_samples(task_name=name, samples=samples[name])
    return out


def results_of(run: Path, task: str) -> dict[str, float]:
    (file,) = run.rglob("*_results.json")
    row = json.loads(file.read_text())["results"][task]
    return {key.partition(",")[0]: value for key, value in row.items() if isinstance(value, int | float)}


def samples_of(run: Path, task: str) -> list[dict[str, Any]]:
    (file,) = run.rglob(f"*_samples_{task}.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_pope(run: Path) -> None:
    said = [row["pope_accuracy"] for row in samples_of(run, "pope_tiny")]
    pairs = [(row["ground_truth"], row["prediction"]) for row in said]
    right_yes, wrong_yes = pairs.count(("yes", "yes")), pairs.count(("no", "yes"))
    missed = pairs.count(("yes", "no"))  # lmms-eval: an answer that is neither is no miss
    precision, recall = right_yes / (right_yes + wrong_yes), right_yes / (right_yes + missed)
    expected = results_of(run, "pope_tiny")
    assert 0 < expected["pope_f1_score"] < 1
    assert expected["pope_f1_score"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert expected["pope_accuracy"] == pytest.approx(sum(truth == answer for truth, answer in pairs) / len(pairs))


def test_mme(run: Path) -> None:
    """A subtask is 100 (share of right answers + share of pictures with both right); the score is the subtasks' sum."""
    samples = samples_of(run, "mme_tiny")
    for metric in ("mme_perception_score", "mme_cognition_score"):
        table = pl.DataFrame([row[metric] for row in samples if metric in row])
        pictures = table.group_by("category", "question_id").agg(pl.col("score").sum().alias("right"))
        parts = pictures.group_by("category").agg(
            (pl.col("right").mean() / 2 + (pl.col("right") == 2).mean()).alias("points") * 100
        )
        assert results_of(run, "mme_tiny")[metric] == pytest.approx(parts["points"].sum())
        assert parts["points"].sum() > 0


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("scienceqa_tiny", "exact_match"),
        ("textvqa_tiny", "exact_match"),
        ("pope_tiny", "pope_accuracy"),
        ("textvqa_study_tiny", "exact_match"),
    ],
)
def test_the_mean_of_the_scores_that_we_read(run: Path, task: str, metric: str) -> None:
    frame = read_samples([run]).filter(pl.col("task") == task)
    assert frame.height == 60
    assert 0 < results_of(run, task)[metric] < 1
    assert frame["score"].mean() == pytest.approx(results_of(run, task)[metric])


def test_a_task_that_nobody_graded_has_no_score_and_the_results_file_is_json(run: Path) -> None:
    (file,) = run.rglob("*_results.json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {file}")

    row = json.loads(file.read_text(), parse_constant=refuse)["results"]["mmvet_study_tiny"]
    assert [row[f"{name},none"] for name in ("judge_score", "judge_score_math", "judge_score_ocr")] == [None] * 3
    assert [sample["judge_score"] for sample in samples_of(run, "mmvet_study_tiny")] == [None] * 6


def test_sums_of_the_results_file_stand_in_the_published_columns(run: Path, tmp_path: Path) -> None:
    """MME and POPE are no means of their samples: the leaderboard takes lmms-eval's own numbers."""
    text = "".join(path.read_text() for path in run.rglob("*_results.json")).replace("_tiny", "")
    for path in run.rglob("*_samples_*.jsonl"):
        (tmp_path / path.name.replace("mme_tiny", "mme").replace("pope_tiny", "pope")).write_text(path.read_text())
    (tmp_path / "20260101_000000_results.json").write_text(text)
    standing = read_standing(["vip-llava-study", str(tmp_path)])
    names = [benchmark.name for benchmark in standing.benchmarks]
    own = next(i for i, entry in enumerate(standing.entries) if entry.kind == "run")
    assert standing.cells[own, names.index("MME")].value == results_of(run, "mme_tiny")["mme_perception_score"]
    f1 = 100 * results_of(run, "pope_tiny")["pope_f1_score"]
    assert standing.cells[own, names.index("POPE")].value == pytest.approx(f1)

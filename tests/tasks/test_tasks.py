"""The tasks' prompts, targets and records; their YAML as lmms-eval reads it; their data folders."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from vlm_backbones.errors import DataError
from vlm_backbones.prompts import coordinates_prompt, description_prompt, vqa_prompt
from vlm_backbones.scoring import vqa_accuracy
from vlm_backbones.tasks import data, scoring
from vlm_backbones.tasks.common import mean, median
from vlm_backbones.tasks.seismic_coords import utils as coords
from vlm_backbones.tasks.seismic_description import utils as description
from vlm_backbones.tasks.vqa_scene import utils as scene

EVENT = {
    "magnitude": 6.3, "depth_km": 24.0, "region": "Japan", "quadrant": "northeast", "max_intensity": "VI",
    "description": "A magnitude 6.3 earthquake.", "targets": '{"magnitude": 6.3}',
}  # fmt: skip
PLACE = {"latitude": 36.12, "longitude": 142.86, "frame": "Japan", "targets": "no JSON"}
NEVER_RAISE: list[list[Any]] = [[""], [None], [], [["a", "b"]], ["\x00{}"], ['{"lat": 1e400, "lon": 0}']]


def write_split(folder: Path, rows: int) -> None:
    picture = Image.new("RGB", (4, 4))
    texts = List(Value("string"))
    table = {"image": [picture] * rows, "question": ["?"] * rows, "answers": [["?"]] * rows, "options": [[]] * rows}
    kinds = Features({"image": ImageFeature(), "question": Value("string"), "answers": texts, "options": texts})
    Dataset.from_dict(table, features=kinds).save_to_disk(str(folder))


def test_scene_scores_prompt_and_target() -> None:
    doc = {"question": "How many?", "answers": ["2"], "question_type": "count", "targets": '{"count": 2}'}
    assert scene.doc_to_text(doc) == vqa_prompt("How many?")
    assert scene.doc_to_target(doc) == "2"
    assert scene.doc_to_target({"answers": ["2", "two"]}) == '["2", "two"]'
    assert scene.process_results(doc, ["Two."]) == {
        "vqa_accuracy": 1.0,
        "backbones": {
            "parsed": "2", "score": 1.0, "rungs": {}, "question_type": "count", "frame": None, "targets": {"count": 2},
        },
    }  # fmt: skip
    assert scene.process_results({"answers": []}, ["x"])["vqa_accuracy"] is None


def test_description_scores() -> None:
    result = description.process_results(EVENT, ["A magnitude 6.3 earthquake near Peru."])
    assert result["fact_score"] == 0.2
    assert result["hallucinated_facts"] == 1
    # Reference of 5 words (6 and 3 apart), answer of 7, all 5 in order: P = 5/7, R = 1, F = 2 * 5/7 / (12/7) = 5/6.
    assert result["rouge_l"] == pytest.approx(5 / 6)
    assert result["backbones"]["rungs"]["magnitude"] is True
    assert result["backbones"]["frame"] == "Japan"
    assert description.doc_to_text(EVENT) == description_prompt()


def test_coordinates_scores() -> None:
    assert coords.doc_to_text(PLACE) == coordinates_prompt()
    assert json.loads(coords.doc_to_target(PLACE)) == {"lat": 36.12, "lon": 142.86}
    result = coords.process_results(PLACE, ['{"lat": 36.1, "lon": 142.9}'])
    assert result["within_50_km"] == result["schema"] == result["parsed"] == 1.0
    assert result["error_km"] == pytest.approx(4.2, abs=0.1)
    assert result["backbones"]["parsed"] == [36.1, 142.9]
    assert result["backbones"]["targets"] == {}
    missing = coords.process_results(PLACE, ["unknown"])
    assert missing["within_1000_km"] == 0.0
    assert missing["error_km"] is None
    assert coords.process_results({}, ["1, 2"])["within_100_km"] is None


@pytest.mark.parametrize("results", NEVER_RAISE)
@pytest.mark.parametrize(("task", "doc"), [(scene, {"answers": ["a"]}), (description, EVENT), (coords, PLACE)])
def test_process_results_never_raises_and_stays_strict_json(task: Any, doc: dict[str, Any], results: list[Any]) -> None:
    result = task.process_results(doc, results)
    assert json.loads(json.dumps(result, allow_nan=False))["backbones"].keys() >= {"parsed", "score", "targets"}


def test_aggregations_leave_missing_values_out() -> None:
    assert mean([1.0, None, 0.0]) == 0.5
    assert median([5.0, None, 1.0, 3.0]) == 3.0
    assert mean([None]) is None
    assert median([]) is None


def test_scoring_is_re_exported() -> None:
    assert scoring.vqa_accuracy is vqa_accuracy


def test_data_is_opened_with_or_without_a_dataset_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import load_from_disk

    monkeypatch.setenv("VLM_BACKBONES_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    write_split(tmp_path / "data" / "vqa_scene" / "test", 3)
    assert len(load_from_disk(data.VQA_SCENE)["test"]) == 3
    assert len(load_from_disk(data.VQA_SCENE)["test"]) == 3  # the view is there already


def test_missing_and_empty_data_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_BACKBONES_DATA", str(tmp_path))
    with pytest.raises(DataError, match="no dataset of task 'seismic_coords'"):
        _ = data.SEISMIC_COORDS
    write_split(tmp_path / "seismic_coords" / "test", 0)
    with pytest.raises(DataError, match="is empty"):
        _ = data.SEISMIC_COORDS
    write_split(tmp_path / "seismic_coords" / "test", 2)
    with pytest.raises(DataError, match=r"seismic_coords/test: columns \['latitude', 'longitude'\] are missing"):
        _ = data.SEISMIC_COORDS
    with pytest.raises(AttributeError):
        _ = data.NO_TASK


def test_a_cache_that_cannot_be_written_leaves_a_folder_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_BACKBONES_DATA", str(tmp_path / "data"))
    write_split(tmp_path / "data" / "vqa_scene" / "test", 3)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data.scratch_dir.cache_clear()
    assert Dataset.load_from_disk(f"{data.VQA_SCENE}/test").num_rows == 3
    assert Path(data.VQA_SCENE).is_relative_to(data.scratch_dir())
    data.scratch_dir.cache_clear()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot write a temporary file: .*save it as a DatasetDict.*TMPDIR"):
        _ = data.VQA_SCENE

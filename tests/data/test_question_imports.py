"""A table of questions, and LLaVA's Instruct JSON, become `vqa_scene` (or all tasks that a table has columns for)."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import pytest
from PIL import Image

from vlm_backbones.data.conversations import load_examples
from vlm_backbones.data.imports.llava import import_llava
from vlm_backbones.data.imports.task_tables import TASKS, import_table
from vlm_backbones.errors import DataError
from vlm_backbones.tasks import data as task_data


def encoded(color: str = "red", kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (12, 8), color).save(stream, kind)
    return stream.getvalue()


def test_a_jsonl_of_questions_becomes_vqa_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in" / "pictures").mkdir(parents=True)
    (tmp_path / "in" / "pictures" / "a.png").write_bytes(encoded("red"))
    rows = [
        {"file": "pictures/a.png", "question": "Which colour?", "answer": "red", "choices": ["red", "blue"],
         "category": "colour", "rephrased": "What colour is it?", "targets": {"colour": "red"}},
        {"file": "pictures/a.png", "question": "How many?", "answer": ["1", "one"], "choices": [], "category": "count",
         "rephrased": "Count them.", "targets": {}},
    ]  # fmt: skip
    source = tmp_path / "in" / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    made = import_table(source, tmp_path / "out", tasks=tuple(TASKS), columns={"image": "file"})
    assert made.counts == {"vqa_scene": 2}
    monkeypatch.setenv("VLM_BACKBONES_DATA", str(tmp_path / "out"))
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    first, second = datasets.load_from_disk(task_data.VQA_SCENE)["test"]
    assert (first["answers"], first["options"], first["question_type"]) == (["red"], ["red", "blue"], "colour")
    assert (first["paraphrase"], json.loads(first["targets"])) == ("What colour is it?", {"colour": "red"})
    assert second["answers"] == ["1", "one"]
    assert first["image_id"] == second["image_id"]  # one picture
    assert (first["question_id"], second["question_id"]) == ("0", "1")


def test_one_table_fills_all_three_tasks_and_csv_writes_lists_as_json(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(encoded())
    (tmp_path / "rows.csv").write_text(
        "image,question,answers,latitude,longitude,description\n"
        'm.png,Where?,"[""Japan"", ""japan""]",36.1,142.9,A quake.\n'
    )
    made = import_table(tmp_path / "rows.csv", tmp_path / "out", tasks=tuple(TASKS), split="train")
    assert made.counts == {"vqa_scene": 1, "seismic_description": 1, "seismic_coords": 1}
    row = datasets.load_from_disk(str(tmp_path / "out" / "vqa_scene" / "train"))[0]
    assert row["answers"] == ["Japan", "japan"]
    (example,) = load_examples([tmp_path / "out"])
    assert len(example.turns) == 3


def test_bad_rows_of_a_jsonl_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    good = {"image": "a.png", "question": "Which?", "answer": "red"}
    rows = [{**good, "question": " "}, {**good, "answer": ""}, {**good, "targets": "[1]"}, {**good, "image": "b.png"},
            {**good, "options": ["a", ""]}]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"targets": "", "options": [], **row}) for row in rows))
    with pytest.raises(DataError) as error:
        import_table(tmp_path / "rows.jsonl", tmp_path / "out", tasks=tuple(TASKS))
    for message in (
        "row 0: the question is empty", "row 1: the answer is ''", "row 2: targets is '[1]', expected a JSON object",
        "row 3: image", "row 4: options is ['a', '']",
    ):  # fmt: skip
        assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_cell_that_is_nested_without_end_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    row = {"image": "a.png", "question": "Which?", "answer": "[" * 100_000}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert import_table(tmp_path / "rows.jsonl", tmp_path / "out", tasks=("vqa_scene",)).counts == {"vqa_scene": 1}


def write_instruct(folder: Path) -> Path:
    """As llava_v1_5_mix665k.json has its rows: two short questions, a description, letters, no picture, a region."""
    (folder / "coco" / "train2017").mkdir(parents=True)
    (folder / "coco" / "train2017" / "000000000001.jpg").write_bytes(encoded(kind="JPEG"))
    short = "\nAnswer the question using a single word or phrase."
    letter = "\nAnswer with the option's letter from the given choices directly."
    picture = {"image": "coco/train2017/000000000001.jpg"}
    said = [
        {"id": "1", **picture, "conversations": [f"<image>\nIs it red?{short}", "Yes", "What is it?", "A box"]},
        {"id": "2", **picture, "conversations": ["Describe it.\n<image>", "The image shows a red box on a table."]},
        {"id": "3", **picture, "conversations": [f"<image>\nWhich?\nA. box\nB. cat{letter}", "A"]},
        {"id": "4", "conversations": ["What is two and two?", "4"]},
        {"id": "pointQA_twice-0", **picture, "bboxes": [[1, 1, 6, 6]], "general_question": "How many boxes?",
         "answer": "1"},
    ]  # fmt: skip
    for row in said:
        if "conversations" in row:
            row["conversations"] = [
                {"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(row["conversations"])
            ]
    (folder / "mix.json").write_text(json.dumps(said))
    return folder / "mix.json"


def test_short_questions_of_instruct_json_become_vqa_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = import_llava(write_instruct(tmp_path / "in"), tmp_path / "out")
    assert made.count == 3
    assert made.left_out == {
        "answers of more than 5 words": 1, "rows without a picture": 1, "region records": 1,
    }  # fmt: skip
    monkeypatch.setenv("VLM_BACKBONES_DATA", str(tmp_path / "out"))
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    rows = list(datasets.load_from_disk(task_data.VQA_SCENE)["test"])
    assert [row["question"] for row in rows] == ["Is it red?", "What is it?", "Which?\nA. box\nB. cat"]
    assert [row["answers"] for row in rows] == [["Yes"], ["A box"], ["A"]]
    assert [row["options"] for row in rows] == [[], [], ["A", "B"]]
    assert [row["question_id"] for row in rows] == ["1-0", "1-1", "3-0"]
    assert len({row["image_id"] for row in rows}) == 1
    few = import_llava(tmp_path / "in" / "mix.json", tmp_path / "few", limit=1)
    assert (few.count, few.left_out["beyond the limit"]) == (1, 2)


def test_instruct_json_without_short_questions_or_with_bad_rows_is_refused(tmp_path: Path) -> None:
    source = write_instruct(tmp_path / "in")
    rows = json.loads(source.read_text())
    source.write_text(json.dumps(rows[1:2]))
    with pytest.raises(DataError, match=r"no short question on a picture among 1 rows .*'answers of more than 5 words"):
        import_llava(source, tmp_path / "out")
    source.write_text(json.dumps([{**rows[0], "image": "coco/none.jpg"}, {**rows[0], "conversations": []}]))
    with pytest.raises(DataError, match="2 bad rows"):
        import_llava(source, tmp_path / "out")
    with pytest.raises(DataError, match="no file"):
        import_llava(tmp_path / "nothing.json", tmp_path / "out")
    assert not (tmp_path / "out").exists()

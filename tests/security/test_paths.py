"""No row leads a reader out of its folder: not by dots, links, absolute paths or addresses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageColumn
from PIL import Image

from vlm_backbones.analysis.report.media import Media
from vlm_backbones.data.conversations import load_examples
from vlm_backbones.data.evaluation_data import check_test_split
from vlm_backbones.data.imports.new_task import write_task
from vlm_backbones.data.imports.task_tables import TASKS, import_table
from vlm_backbones.data.imports.vqav2 import import_vqav2
from vlm_backbones.errors import DataError
from vlm_backbones.tasks.region_data import dataset_dir


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder with links out of it, beside a picture and a text that no row may reach."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (tmp_path / "secret.json").write_text(json.dumps({"boxes": [], "segms": []}))
    (tmp_path / "outside").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "outside" / "a.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "images" / "deep.png").symlink_to(tmp_path / "secret.png")
    (folder / "away").symlink_to(tmp_path / "outside", target_is_directory=True)
    (folder / "circle.png").symlink_to("circle.png")
    return folder


def escapes(root: Path) -> list[str]:
    return ["../secret.png", "images/../../secret.png", str(root.parent / "secret.png"), "link.png", "away/a.png",
            "http://localhost/secret.png", "https://localhost/x", "file:///etc/passwd", "data:image/png;base64,AAAA",
            "s3://bucket/x.png", "zip://a.png::http://localhost/x.zip", "//localhost/share/x.png",
            "circle.png"]  # fmt: skip


def llava(root: Path, name: str) -> None:
    row = {"id": "1", "image": name, "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}
    (root / "rows.json").write_text(json.dumps([row]))
    load_examples([root / "rows.json"])


def messages(root: Path, name: str) -> None:
    row = {"images": [name], "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}
    (root / "rows.jsonl").write_text(json.dumps(row))
    load_examples([root / "rows.jsonl"])


def parquet(root: Path, name: str) -> None:
    import pyarrow.parquet

    row = {"id": "1", "image": {"bytes": None, "path": name},
           "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}  # fmt: skip
    pyarrow.parquet.write_table(pa.Table.from_pylist([row]), root / "rows.parquet")
    load_examples([root / "rows.parquet"])


def region_record(root: Path, name: str) -> None:
    row = {"id": "refcocog-1", "image": name, "bboxes": [[1, 1, 5, 5]], "answer": "a"}
    (root / "rows.json").write_text(json.dumps([row]))
    load_examples([root / "rows.json"])


def task_folder(root: Path, name: str) -> None:
    row = {"image": {"bytes": None, "path": name}, "event_id": "e", "latitude": 1.0, "longitude": 2.0, "frame": "f",
           "image_id": "m", "targets": "{}"}  # fmt: skip
    Dataset(pa.Table.from_pylist([row])).save_to_disk(str(root / "seismic_coords" / "test"))
    load_examples([root], split="test")


def evaluation(root: Path, name: str) -> None:
    features = Features({"image": ImageColumn(), "latitude": Value("float64"), "longitude": Value("float64")})
    row = {"image": {"bytes": None, "path": name}, "latitude": 1.0, "longitude": 2.0}
    split = root / "seismic_coords" / "test"
    Dataset(pa.Table.from_pylist([row], schema=features.arrow_schema.remove_metadata())).save_to_disk(str(split))
    written = json.loads((split / "dataset_info.json").read_text())
    (split / "dataset_info.json").write_text(json.dumps(written | {"features": features.to_dict()}))
    check_test_split("seismic_coords", root, decode=True)


def table(root: Path, name: str) -> None:
    (root / "t.jsonl").write_text(json.dumps({"image": name, "latitude": 1, "longitude": 2}))
    import_table(root / "t.jsonl", root / "imported", tasks=tuple(TASKS))


def new_task(root: Path, name: str) -> None:
    (root / "t.jsonl").write_text(json.dumps({"image": name, "question": "?", "answer": "!"}))
    write_task("mine", root / "t.jsonl", root / "task")


def region_benchmark(root: Path, name: str) -> None:
    boxes = [[1, 1, 5, 5], [2, 2, 6, 6], [1, 2, 3, 4], [2, 3, 4, 5]]
    row = {"id": "v7w-1", "image": name, "question": "?", "bboxes": boxes, "answer": boxes[0]}
    (root / "v7w-test.json").write_text(json.dumps([row]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLM_BACKBONES_REGION_DATA", str(root))
        patch.setenv("VLM_BACKBONES_CACHE", str(root / "cache"))
        dataset_dir("v7w")


READERS: list[Callable[[Path, str], None]] = [
    llava, messages, parquet, region_record, task_folder, evaluation, table, new_task, region_benchmark,
]  # fmt: skip


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_no_reader_follows_a_name_out_of_its_folder(
    reader: Callable[[Path, str], None], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(root.parent / "cache"))
    opened = watch_opens(root.parent)
    for name in escapes(root):
        with pytest.raises(DataError, match=r"outside|address|no file|does not exist|missing"):
            reader(root, name)
    assert [path for path in opened if path.startswith(("secret", "outside"))] == []


def watch_opens(folder: Path) -> list[str]:
    """Collect what is opened under a folder from now on; a hook cannot be taken out again."""
    import os
    import sys

    found: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = Path(os.fsdecode(arguments[0])).resolve()
            if path.is_relative_to(folder):
                found.append(str(path.relative_to(folder)))

    sys.addaudithook(watch)
    return found


def test_a_picture_reached_by_a_link_inside_the_folder_is_read(root: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(root / "real.png")
    (root / "alias.png").symlink_to("real.png")
    llava(root, "alias.png")
    (example,) = load_examples([root / "rows.json"])
    assert example.image is not None
    assert example.image.open().getpixel((0, 0)) == (255, 0, 0)


def test_a_vcr_record_reads_no_meta_file_from_outside(root: Path) -> None:
    Image.new("RGB", (8, 8)).save(root / "a.png")
    row = {"id": "vcr-1", "image": "a.png", "meta_dir": "../secret.json", "class_names": [], "answer_label": 0,
           "question": ["?"], "answer_choices": [["a"]], "rationale_label": 0,
           "rationale_choices": [["b"]]}  # fmt: skip
    (root / "rows.json").write_text(json.dumps([row]))
    with pytest.raises(DataError, match="outside"):
        load_examples([root / "rows.json"])


def test_official_vqa_pictures_are_no_links_out_of_their_folder(root: Path) -> None:
    (root / "val2014").mkdir()
    (root / "val2014" / "COCO_val2014_000000000042.jpg").symlink_to(root.parent / "secret.png")
    asked = {"data_subtype": "val2014", "questions": [{"question_id": 1, "image_id": 42, "question": "?"}]}
    answers = {"annotations": [{"question_id": 1, "answer_type": "other", "answers": [{"answer": "a"}]}]}
    (root / "questions.json").write_text(json.dumps(asked))
    (root / "annotations.json").write_text(json.dumps(answers))
    with pytest.raises(DataError, match="outside"):
        import_vqav2(root, root / "imported")


def test_the_report_takes_no_image_by_a_link(root: Path, tmp_path: Path) -> None:
    media = tmp_path / "run" / "media"
    media.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "private.webp")
    (media / "abc.webp").symlink_to(tmp_path / "private.webp")
    Image.new("RGB", (8, 8)).save(media / "own.webp")
    found = Media([media], tmp_path / "out")
    assert found.place("abc") is None
    assert found.place("../run/media/own") is None
    assert found.place("own") == [0, "own"]
    assert [path.name for path in (tmp_path / "out").rglob("*.webp")] == ["own.webp"]

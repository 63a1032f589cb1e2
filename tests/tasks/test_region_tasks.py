"""The region tasks: published prompts, overlays fixed for every model, official matching, and their data folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from datasets import load_from_disk
from PIL import Image

from vlm_backbones.data.conversations import load_examples
from vlm_backbones.errors import DataError
from vlm_backbones.pictures import to_rgb
from vlm_backbones.tasks import region_data
from vlm_backbones.tasks.pointqa_looktwice import utils as pointqa
from vlm_backbones.tasks.v7w import utils as v7w
from vlm_backbones.tasks.vip_bench_bbox import utils as vip_bench


@pytest.fixture
def root(region_parts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLM_BACKBONES_REGION_DATA", str(tmp_path / "regions"))
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    return Path(region_parts.write_region_data(tmp_path / "regions"))


def rows(task: str) -> Any:
    return load_from_disk(region_data.dataset_dir(task))["test"]


def test_boxes_count_the_stored_pixels_of_a_picture_that_exif_would_turn(root: Path, tmp_path: Path) -> None:
    """Boxes were drawn on what Pillow opens: turned upright, a picture would be marked in another place."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 40)).save(root / "v7w" / "0.png", exif=exif)
    record = {**json.loads(rows("v7w")[0]["record"]), "bboxes": [[2, 2, 60, 9], [2, 12, 60, 18], [2, 20, 60, 28],
              [2, 30, 60, 38]], "answer": [2, 2, 60, 9]}  # fmt: skip
    doc = {**rows("v7w")[0], "record": json.dumps(record)}
    (asked,) = v7w.doc_to_visual(doc)
    (root / "train.json").write_text(json.dumps([record]))
    (example,) = load_examples([root / "train.json"])
    assert example.image is not None
    for marked in (to_rgb(asked), example.image.open()):
        assert marked.size == (64, 40)
        drawn = np.asarray(marked).any(axis=2)
        assert drawn[[2, 12, 20, 30], 2:61].all()
        assert not drawn[10].any()


@pytest.mark.usefixtures("root")
def test_pictures_of_odd_kinds_are_opened_or_refused_by_name(root: Path) -> None:
    doc = rows("vip_bench_bbox")[0]
    Image.fromarray(np.full((9, 7), 40_000, np.uint16)).save(doc["image_path"])
    assert vip_bench.doc_to_visual(doc)[0].getpixel((0, 0)) == (156, 156, 156)  # round(40000 / 257)
    Path(doc["image_path"]).write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"v1_0\.png: the image is corrupt"):
        vip_bench.doc_to_visual(doc)
    Image.new("1", (20_000, 2)).save(doc["image_path"])
    with pytest.raises(DataError, match=r"v1_0\.png: the image is 20000x2 pixels"):
        vip_bench.doc_to_visual(doc)


@pytest.mark.usefixtures("root")
def test_visual7w_asks_with_four_colours_and_scores_the_letter() -> None:
    docs = rows("v7w")
    assert len(docs) == 6
    assert [v7w.doc_to_target(doc) for doc in docs] == ["A", "B", "C", "D", "A", "B"]
    lines = v7w.doc_to_text(docs[0]).split("\n")
    assert lines[0] == "Which is brighter?"
    assert len({line.split()[-2] for line in lines[1:5]}) == 4
    assert lines[5] == "Answer with the option's letter from the given choices directly."
    scored = [v7w.process_results(docs[0], [answer])["accuracy"] for answer in (" a\n", "A.", "B", "")]
    assert scored == [1.0, 0.0, 0.0, 0.0]  # the whole answer, lower case, stripped; nothing else is forgiven


def test_the_overlay_is_alpha_128_and_the_same_for_every_model(root: Path, region_parts: ModuleType) -> None:
    doc = rows("v7w")[1]
    (first,), (second,) = v7w.doc_to_visual(doc), v7w.doc_to_visual(doc)
    assert first.tobytes() == second.tobytes()
    plain = np.asarray(Image.open(root / str(region_parts.WHICH[1]["image"])).convert("RGB")).astype(int)
    marked = np.asarray(first).astype(int)
    changed = (plain != marked).any(axis=2)
    outline = np.zeros_like(changed)
    for x1, y1, x2, y2 in region_parts.BOXES:  # width int(3 * 64 / 336) = 0, so 1
        outline[[y1, y2], x1 : x2 + 1] = outline[y1 : y2 + 1, [x1, x2]] = True
    assert not (changed & ~outline).any()
    assert changed.sum() > 0.9 * outline.sum()


@pytest.mark.usefixtures("root")
def test_pointqa_asks_for_a_count_in_a_red_rectangle() -> None:
    doc = rows("pointqa_looktwice")[3]
    assert pointqa.doc_to_text(doc) == (
        "How many squares are there? The exemplary object is within the rectangle."
        "\nAnswer the question using a single word or phrase."
    )
    (picture,) = pointqa.doc_to_visual(doc)
    plain = Image.open(doc["image_path"]).convert("RGB").getpixel((4, 10))
    blend = [(128 * ink + 127 * ground) / 255 for ink, ground in zip((255, 0, 0), plain, strict=True)]
    assert np.abs(np.array(picture.getpixel((4, 10))) - blend).max() <= 1
    assert pointqa.process_results(doc, ["3"])["accuracy"] == 1.0
    assert pointqa.process_results(doc, ["three"])["accuracy"] == 0.0
    assert pointqa.process_results(doc, [None])["backbones"]["parsed"] is None


@pytest.mark.usefixtures("root")
def test_vip_bench_draws_nothing_and_asks_the_text_alone() -> None:
    doc = rows("vip_bench_bbox")[1]
    assert vip_bench.doc_to_text(doc) == "What is within the red rectangle 1?"
    assert (doc["question_id"], doc["answer"], doc["capability"]) == ("v1_1", "5<AND>7", ["rec", "ocr"])
    assert vip_bench.doc_to_visual(doc)[0].tobytes() == Image.open(doc["image_path"]).convert("RGB").tobytes()


def test_missing_and_malformed_data_is_named(
    root: Path, region_parts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    which, boxes = region_parts.WHICH, region_parts.BOXES
    file = root / "v7w-test.json"
    file.write_text("[")
    with pytest.raises(DataError, match=r"v7w-test\.json is not valid JSON"):
        _ = region_data.V7W
    file.write_text(json.dumps({}))
    with pytest.raises(DataError, match="holds a dict, expected a list"):
        _ = region_data.V7W
    file.write_text(json.dumps([which[0], {**which[1], "bboxes": boxes[:2]}]))
    with pytest.raises(DataError, match=r"v7w-test\.json row 1: bboxes"):
        _ = region_data.V7W
    file.write_text(json.dumps([{**which[0], "image": "../secret.png"}]))
    with pytest.raises(DataError, match=r"row 0: image '\.\./secret\.png' is no file under"):
        _ = region_data.V7W
    file.write_text(json.dumps([{**which[0], "image": "v7w/none.png"}]))
    with pytest.raises(DataError, match=r"pictures are missing: .*none\.png"):
        _ = region_data.V7W
    file.write_text(json.dumps([{**which[0], "image": "a" * 5000}]))
    with pytest.raises(DataError, match=r"pictures are missing: .*aaa"):
        _ = region_data.V7W
    file.write_text(json.dumps([{**which[0], "id": "v7w-\ud800"}]))
    with pytest.raises(DataError, match="half of a character"):
        _ = region_data.V7W
    file.write_text("[]")
    with pytest.raises(DataError, match="has no rows"):
        _ = region_data.V7W
    questions = root / "ViP-Bench" / "human" / "questions.jsonl"
    questions.write_text('{"question_id": 99, "image": "v1_0.png", "text": "?"}\n')
    with pytest.raises(DataError, match="has no answer for 'v1_99'"):
        _ = region_data.VIP_BENCH_HUMAN
    questions.write_text(questions.read_text().replace("99", "0").replace("?", "\\ud800"))
    meta = root / "ViP-Bench" / "vip-bench-meta-data.json"
    whole = meta.read_text()
    meta.write_text(json.dumps({"v1_0": {"answer": "a"}}))
    with pytest.raises(DataError, match="half of a character"):
        _ = region_data.VIP_BENCH_HUMAN
    meta.write_text(whole)
    with pytest.raises(DataError, match="lacks 4 questions"):
        _ = region_data.VIP_BENCH_HUMAN
    (root / "pointQA_twice_test.json").unlink()
    with pytest.raises(DataError, match=r"no file .*pointQA_twice_test"):
        _ = region_data.POINTQA_LOOKTWICE
    monkeypatch.delenv("VLM_BACKBONES_REGION_DATA")
    with pytest.raises(DataError, match="set VLM_BACKBONES_REGION_DATA=DIR"):
        _ = region_data.V7W
    with pytest.raises(AttributeError):
        _ = region_data.NO_TASK


def test_a_changed_file_is_read_again(root: Path, region_parts: ModuleType) -> None:
    assert len(rows("v7w")) == 6
    (root / "v7w-test.json").write_text(json.dumps(region_parts.WHICH[:2]))
    assert len(rows("v7w")) == 2


@pytest.mark.usefixtures("root")
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot write .*file/region/v7w-.*VLM_BACKBONES_CACHE"):
        _ = region_data.V7W

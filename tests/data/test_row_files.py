"""The published files of conversations, and others of their kind: read as they lie, counted, named where bad."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageChops

from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.conversations import load_examples, load_training_examples
from vlm_backbones.data.counts import check_captions, count_data
from vlm_backbones.errors import DataError
from vlm_backbones.study import Data


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))


def said(*texts: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if index % 2 else "human", "value": text} for index, text in enumerate(texts)]


def write_picture(path: Path, color: str = "grey", size: tuple[int, int] = (64, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


@pytest.fixture
def playground(tmp_path: Path) -> Path:
    """LLaVA's folder: 665k's mix with its five picture folders, and the pretraining set with its own."""
    folder = tmp_path / "playground" / "data"
    names = ["coco/train2017/1.jpg", "gqa/images/2.jpg", "textvqa/train_images/4.jpg", "vg/VG_100K/5.jpg"]
    for name in names:
        write_picture(folder / name)
    write_picture(folder / "ocr_vqa/images/3.gif")  # named .jpg in the mix
    rows: list[dict[str, Any]] = [
        {"id": str(index), "image": name, "conversations": said("<image>\nWhat?", "A dot.\n", "And?", "No.")}
        for index, name in enumerate([*names, "ocr_vqa/images/3.jpg"])
    ]
    rows.append({"id": "text", "model": "", "conversations": said("Why?", "So.")})
    rows.append({"id": "late", "conversations": said("Why?", "So.", "How?", "Thus.")[1:]})  # starts with an answer
    (folder / "llava_v1_5_mix665k.json").write_text(json.dumps(rows))
    write_picture(folder / "LLaVA-Pretrain/images/00453/004539375.jpg")
    caption = {
        "id": "004539375",
        "image": "00453/004539375.jpg",
        "conversations": said("Render it.\n<image>", "a dot "),
    }
    (folder / "LLaVA-Pretrain/blip_laion_cc_sbu_558k.json").write_text(json.dumps([caption]))
    return folder


def test_the_published_llava_files_are_read_and_counted_in_their_own_layout(playground: Path) -> None:
    pretrain = playground / "LLaVA-Pretrain/blip_laion_cc_sbu_558k.json"
    expected = {"finetune": {"examples": 665_298, "text_tokens": 200}}
    data = Data.model_validate(
        {"align": pretrain, "finetune": playground / "llava_v1_5_mix665k.json", "expected": expected}
    )
    stages = load_training_examples(data, ["align", "finetune"])
    (caption,) = stages["align"]
    assert (caption.turns[0].question, caption.turns[0].answer) == ("Render it.", "a dot")
    counts = count_data(data, stages)
    assert counts["finetune"] == {
        "files": str(playground / "llava_v1_5_mix665k.json"),
        "examples": 7,
        "turns": 12,
        "with image": 5,
        "text only": 2,
        "pictures in": {"coco": 1, "gqa": 1, "textvqa": 1, "vg": 1, "ocr_vqa": 1},
        "messages before the first question left out": 1,
        "pictures found under another ending": 1,
        "expected examples": 665_298,
    }
    assert counts["align"]["pictures in"] == {"images": 1}
    found = {example.id: example for example in stages["finetune"]}
    assert [turn.answer for turn in found["0"].turns] == ["A dot.", "No."]
    assert [turn.question for turn in found["late"].turns] == ["How?"]
    assert found["4"].image is not None
    assert found["4"].image.open().size == (64, 48)


def test_a_share_gpt_file_has_a_row_a_line(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    parts = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    rows = [
        {"conversations": said("<image>\nWhat?", "A dot."), "image": "a.png"},
        {"messages": [*messages, {"role": "assistant", "content": "Yes."}]},
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "X"}], "images": ["a.png"]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    examples = load_examples([path])
    assert [[turn.question for turn in example.turns] for example in examples] == [["What?"], ["Hi"], ["What is it?"]]
    assert [example.image is not None for example in examples] == [True, False, True]
    path.write_text(json.dumps(rows[0]) + "\n{broken\n" + json.dumps({"conversations": said("a", "b")[:1]}))
    with pytest.raises(DataError) as caught:
        load_examples([path])
    assert f"{path} row 1 is not valid JSON" in str(caught.value)
    assert f"{path} row 2 is malformed" in str(caught.value)


def png(color: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 7), color).save(stream, "PNG")
    return stream.getvalue()


CHAT = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A dot."}]


@pytest.mark.parametrize(
    "pictures",
    [
        pa.array([{"bytes": png("red"), "path": None}, None]),
        pa.array([{"bytes": None, "path": "red.png"}, None], pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        pa.array([png("red"), None]),
        pa.array(["red.png", None]),
        pa.array([[{"bytes": png("red"), "path": None}], []]),
    ],
    ids=["image", "path in image", "bytes", "path", "list"],
)
def test_a_parquet_file_holds_pictures_and_messages(tmp_path: Path, pictures: pa.Array) -> None:
    (tmp_path / "red.png").write_bytes(png("red"))
    name = "images" if pa.types.is_list(pictures.type) else "image"
    pq.write_table(pa.table({name: pictures, "messages": [CHAT, CHAT]}), tmp_path / "rows.parquet")
    for path in (tmp_path / "rows.parquet", tmp_path):  # the file, or the folder with all parts
        first, second = load_examples([path])
        assert first.image is not None
        assert first.image.open().getpixel((0, 0)) == (255, 0, 0)
        assert first.image.data is None  # read when it is needed
        assert second.image is None
        assert first.turns[0].answer == "A dot."


def test_a_file_that_is_no_table_of_rows_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"rows.parquet cannot be read as parquet"):
        load_examples([tmp_path / "rows.parquet"])
    (tmp_path / "rows.tsv").write_text("a\tb\n")
    with pytest.raises(DataError, match=r"expected .json, .jsonl, .parquet, found '.tsv'"):
        load_examples([tmp_path / "rows.tsv"])
    (tmp_path / "rows.json").write_text('{"rows": []}')
    with pytest.raises(DataError, match=r"holds no list: expected rows with 'conversations', found \{'rows'"):
        load_examples([tmp_path / "rows.json"])
    (tmp_path / "rows.jsonl").write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        load_examples([tmp_path / "rows.jsonl"])


def test_a_damaged_text_of_a_parquet_file_is_one_error(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(
        pa.table({"messages": [CHAT]}), file, compression="NONE", use_dictionary=False, write_statistics=False
    )
    file.write_bytes(file.read_bytes().replace(b"A dot.", b"A \xd2ot."))
    with pytest.raises(DataError, match=r"rows.parquet cannot be read as parquet .*UTF8"):
        load_examples([file])


@pytest.mark.parametrize(
    "kind", [pa.struct({"byt": pa.binary(), "path": pa.string()}), pa.struct({"bytes": pa.binary()})]
)
@pytest.mark.parametrize("listed", [False, True])
def test_a_picture_needs_bytes_and_path(tmp_path: Path, kind: pa.DataType, listed: bool) -> None:
    cell = dict.fromkeys(field.name for field in kind)
    pictures = pa.array([[cell]] if listed else [cell], pa.list_(kind) if listed else kind)
    pq.write_table(pa.table({"image": pictures, "messages": [CHAT]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows.parquet: column image holds .*struct<.*; expected pictures"):
        load_examples([tmp_path / "rows.parquet"])


def test_a_link_out_of_the_folder_is_no_picture(tmp_path: Path) -> None:
    write_picture(tmp_path / "secret.png")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.png").symlink_to(tmp_path / "secret.png")
    (folder / "rows.json").write_text(json.dumps([{"image": "a.png", "conversations": said("a", "b")}]))
    with pytest.raises(DataError, match=r"row 0: image 'a.png' lies outside"):
        load_examples([folder / "rows.json"])


V7W = {
    "id": "v7w-train-1", "image": "v7w/1.jpg", "question": "Which is red?",
    "bboxes": [[5, 5, 20, 20], [30, 5, 50, 20], [5, 25, 20, 40], [30, 25, 50, 40]], "answer": [30, 5, 50, 20],
}  # fmt: skip
REFCOCOG = {
    "id": "refcocog-train-2", "image": "coco/2.jpg", "bboxes": [[10, 10, 40, 40]], "answer": "the dot",
    "segmentations": [[[10, 10, 40, 10, 40, 40]]],
}  # fmt: skip


def test_vip_llavas_rows_are_read_with_their_marks_and_counted(tmp_path: Path) -> None:
    for name in ("v7w/1.jpg", "coco/2.jpg", "coco/3.jpg"):
        write_picture(tmp_path / name)
    rows = [V7W, REFCOCOG, {"id": "3", "image": "coco/3.jpg", "conversations": said("<image>\nWhat?", "A dot.")}]
    path = tmp_path / "vip-llava_stage2_mix.json"
    path.write_text(json.dumps(rows))
    data = Data(finetune=[path])
    stages = load_training_examples(data, ["finetune"])
    counts = count_data(data, stages)["finetune"]
    assert counts["region records"] == {"refcocog": 1, "v7w": 1}
    assert counts["pictures in"] == {"coco": 2, "v7w": 1}
    which, described, plain = stages["finetune"]
    assert which.turns[0].question.startswith("Which is red?\nA. The object within")
    assert which.turns[0].answer == "B"
    assert described.turns[0].answer == "the dot"
    for example, changes in ((which, True), (described, True), (plain, False)):
        assert example.image is not None
        original = Image.open(tmp_path / ("v7w/1.jpg" if example is which else "coco/3.jpg")).convert("RGB")
        marked = example.image.open()
        assert bool(ImageChops.difference(marked, original).getbbox()) == changes
        assert marked.tobytes() == example.image.open().tobytes()  # the same marks for every backbone
    # the picture of another record on the same file is another picture to the feature cache
    again = load_training_examples(data, ["finetune"])["finetune"][0]
    assert which.image is not None
    assert again.image is not None
    assert which.image.digest() == again.image.digest() != plain.image.digest()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bboxes": V7W["bboxes"][:3]}, "row 0: bboxes"),  # type: ignore[index]
        ({"answer": [0, 0, 1, 1]}, "is none of the four boxes"),
        ({"image": None}, "row 0: a region record without an image"),
        ({"id": "vcr-train-1", "meta_dir": "vcr1images/1.json"}, "image 'vcr1images/1.json'|does not exist"),
        ({"id": "vcr-train-1", "meta_dir": 7}, "row 0: meta_dir is 7"),
    ],
)
def test_a_bad_region_record_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_picture(tmp_path / "v7w/1.jpg")
    (tmp_path / "rows.json").write_text(json.dumps([{**V7W, **change}]))
    with pytest.raises(DataError, match=message):
        load_examples([tmp_path / "rows.json"])


def test_the_plain_format_takes_one_picture_and_its_caption(playground: Path) -> None:
    bad = BadRows()
    check_captions(load_examples([playground / "llava_v1_5_mix665k.json"]), "align", bad)
    with pytest.raises(DataError) as caught:
        bad.refuse()
    assert "7 bad rows" in str(caught.value)
    assert "row 0: 2 turns, but the chat_format plain of align takes one picture" in str(caught.value)
    assert "row 5: no picture" in str(caught.value)

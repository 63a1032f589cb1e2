"""Examples from dataset folders and LLaVA JSON: one an image, every bad row named."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pytest
from PIL import Image

from vlm_backbones.data._references import referenced_images
from vlm_backbones.data.conversations import examples_digest, load_examples
from vlm_backbones.errors import DataError


def test_rows_of_one_image_become_one_example_over_the_tasks(parts: Path) -> None:
    examples = load_examples([parts / "data"])
    assert len(examples) == 8 + 6
    assert [len(example.turns) for example in examples] == [6] * 8 + [5] * 6  # describe, three short, coordinates
    assert all(example.independent for example in examples)
    assert examples[-1].turns[-1].answer.startswith('{"lat": ')


def test_captions_are_one_turn_an_image(parts: Path) -> None:
    examples = load_examples([parts / "data"], captions=True)
    assert [len(example.turns) for example in examples] == [1] * 14
    assert examples[-1].turns[0].answer.startswith("A magnitude ")


def test_an_empty_or_missing_split_is_named(tiny_parts: ModuleType, parts: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="validation does not exist"):
        load_examples([parts / "data"], split="validation")
    rows = datasets.load_from_disk(str(parts / "data" / "vqa_scene" / "train"))
    rows.select([]).save_to_disk(str(tmp_path / "vqa_scene" / "train"))
    with pytest.raises(DataError, match="train is empty"):
        load_examples([tmp_path])


def test_a_row_without_image_and_a_corrupt_image_are_named(parts: Path, tmp_path: Path) -> None:
    rows = datasets.load_from_disk(str(parts / "data" / "vqa_scene" / "train")).cast_column(
        "image", datasets.Image(decode=False)
    )
    content = rows.to_list()[:2]
    content[1] = {**content[1], "image": None, "image_id": "other"}
    datasets.Dataset.from_list(content, features=rows.features).save_to_disk(str(tmp_path / "a/vqa_scene/train"))
    with pytest.raises(DataError, match=r"train row 1: the image is missing"):
        load_examples([tmp_path / "a"])
    content[1] = {**content[1], "image": {"bytes": b"no picture", "path": None}}
    datasets.Dataset.from_list(content, features=rows.features).save_to_disk(str(tmp_path / "b/vqa_scene/train"))
    example = load_examples([tmp_path / "b"])[1]
    assert example.image is not None
    with pytest.raises(DataError, match=r"train row 1: the image is corrupt"):
        example.image.open()


def llava_file(folder: Path, *rows: Any) -> Path:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    path = folder / "rows.json"
    path.write_text(json.dumps(list(rows)))
    return path


def row(question: str = "<image>\nWhat?", answer: str = "A dot.", **changes: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "1", "image": "a.png", "conversations": turns, **changes}


def test_llava_rows_become_chains(tmp_path: Path) -> None:
    two = row()["conversations"] + [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "No."}]
    examples = load_examples([llava_file(tmp_path, row(conversations=two), {"conversations": two[2:]})])
    assert [turn.question for turn in examples[0].turns] == ["What?", "And?"]
    assert not examples[0].independent
    assert examples[1].image is None


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(answer=" "), "row 1: the answer is empty"),
        (row(answer="an <image> here"), "row 1: the text holds '<image>'"),
        (row(answer="a\ud800b"), r"row 1: a text holds '\\ud800', half of a character"),
        (row(question="<image>\n\udc00?"), r"row 1: a text holds '\\udc00', half of a character"),
        (row(conversations="text"), "row 1 is malformed: expected 'conversations'"),
        (row(conversations=[{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]), "found 1 messages"),
        (row(conversations=[{"from": "human", "value": "a"}] * 2), "expected a message of the assistant"),
        (row(conversations=[{"from": "narrator", "value": "a"}] * 2), "from human or gpt, found 'narrator'"),
        (row(conversations=[{"from": "human", "value": 3}] * 2), "expected a message's text, found '3'"),
        (row(image=["a.png", "a.png"]), "row 1: 2 images, expected one"),
        (row(image=3), "row 1: image is '3', expected a file's name"),
        (row(image="a\0b.png"), "row 1: image .* is no file name"),
        (row(image=None), "row 1: the text holds '<image>'"),
        (row(image="missing.png"), "row 1: image .*missing.png does not exist"),
        (row(image="../../etc/passwd"), "row 1: image '../../etc/passwd' lies outside"),
        ("a string", "row 1 is malformed"),
    ],
)
def test_a_bad_llava_row_is_named(tmp_path: Path, bad: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_examples([llava_file(tmp_path, row(), bad)])


def test_all_bad_rows_of_all_files_are_named_at_once(tmp_path: Path) -> None:
    first = llava_file(tmp_path, *[row(image="missing.png")] * 30, row(answer=""))
    with pytest.raises(DataError) as caught:
        load_examples([first, tmp_path / "none.json"])
    lines = str(caught.value).splitlines()
    assert lines[0] == "32 bad rows:"
    assert len(lines) == 22
    assert lines[-1] == "  and 12 more"


def test_files_that_are_no_examples_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(DataError, match="not valid JSON"):
        load_examples([tmp_path / "broken.json"])
    with pytest.raises(DataError, match="does not exist"):
        load_examples([tmp_path / "none.json"])


def test_the_digest_depends_on_the_picture_in_its_file(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "black"}]
    path = llava_file(tmp_path, {"id": 0, "image": "a.png", "conversations": talk})
    before = examples_digest(load_examples([path]), [[0]])
    assert examples_digest(load_examples([path]), [[0]]) == before
    Image.new("RGB", (8, 8), "white").save(tmp_path / "a.png")
    assert examples_digest(load_examples([path]), [[0]]) != before


def test_the_pictures_of_a_json_are_found_in_any_layout(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": "a\\u00e9.png", "text": "\\"image\\": \\"no.png\\""}\n{"images":["b.png", "aé.png"]}\n')
    assert list(referenced_images(path)) == [tmp_path / "aé.png", tmp_path / "b.png"]


def test_the_digest_depends_on_order_and_content(parts: Path) -> None:
    examples = load_examples([parts / "data"])
    assert examples_digest(examples, [[0, 1]]) == examples_digest(list(examples), [[0, 1]])
    assert examples_digest(examples, [[0, 1]]) != examples_digest(examples, [[1, 0]])
    assert examples_digest(examples, [[0, 1]]) != examples_digest(examples, [[0], [1]])


@pytest.mark.parametrize(
    ("task", "change", "named"),
    [
        ("vqa_scene", {"question": None}, "row 0: question is None, which is no text"),
        ("vqa_scene", {"answers": None}, "row 0: answers is None, which is no list of texts"),
        ("seismic_coords", {"latitude": None}, "row 0: latitude is None, which is no number"),
        ("seismic_description", {"description": None}, "row 0: description is None, which is no text"),
    ],
)
def test_a_malformed_row_names_its_column(
    parts: Path, tmp_path: Path, task: str, change: dict[str, None], named: str
) -> None:
    rows = datasets.load_from_disk(str(parts / "data" / task / "train"))
    broken = rows.select([0]).map(lambda row: row | change, features=rows.features)
    broken.save_to_disk(str(tmp_path / task / "train"))
    with pytest.raises(DataError, match=named):
        load_examples([tmp_path])


def test_an_image_id_that_names_two_pictures_is_refused(parts: Path, tmp_path: Path) -> None:
    rows = datasets.load_from_disk(str(parts / "data" / "vqa_scene" / "train"))
    first, second = (rows[index] for index in (0, len(rows) - 1))
    assert first["image"].tobytes() != second["image"].tobytes()
    shared = datasets.Dataset.from_list([first, {**second, "image_id": first["image_id"]}], features=rows.features)
    shared.save_to_disk(str(tmp_path / "vqa_scene" / "train"))
    with pytest.raises(DataError, match=r"row 1: image_id .* names another picture in .* row 0"):
        load_examples([tmp_path])


def test_targets_that_are_no_object_are_named(parts: Path, tmp_path: Path) -> None:
    rows = datasets.load_from_disk(str(parts / "data" / "vqa_scene" / "train")).select([0])
    rows.map(lambda row: row | {"targets": "[1, 2]"}, features=rows.features).save_to_disk(
        str(tmp_path / "vqa_scene" / "train")
    )
    with pytest.raises(DataError, match=r"train row 0: column targets is \[1, 2\], expected a JSON object"):
        load_examples([tmp_path], captions=True)


def test_a_missing_column_is_named(parts: Path, tmp_path: Path) -> None:
    rows = datasets.load_from_disk(str(parts / "data" / "vqa_scene" / "train"))
    rows.remove_columns(["answers"]).save_to_disk(str(tmp_path / "vqa_scene" / "train"))
    with pytest.raises(DataError, match=r"answers.* missing"):
        load_examples([tmp_path])


def test_one_malformed_row_hides_no_other(tmp_path: Path) -> None:
    """Lines that are no text, no JSON, no row, and a name that no file can have: all are named, with their count."""
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]
    rows = [{"id": 1}, 5, *({"image": name, "conversations": talk} for name in ("x" * 5000, "/", "none.png"))]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "\xff"}\n{half\n' + "".join(json.dumps(row) + "\n" for row in rows).encode())
    list(referenced_images(path))  # planning a study reads the names first: it leaves the rows to preflight
    with pytest.raises(DataError) as caught:
        load_examples([path])
    lines = str(caught.value).splitlines()
    assert lines[0] == "7 bad rows:"
    assert [line.split("rows.jsonl row ")[1][0] for line in lines[1:]] == list("0123456")


def test_of_many_bad_rows_twenty_are_shown_and_all_counted(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("5\n" * 33)
    with pytest.raises(DataError) as caught:
        load_examples([tmp_path / "rows.jsonl"])
    lines = str(caught.value).splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("33 bad rows:", 22, "  and 13 more")

"""Region records of ViP-LLaVA's files: marks, colours and conversations of each kind, with `<image>` first."""

from __future__ import annotations

import copy
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlm_backbones.data.region_records import (
    REGION_PREFIXES,
    RegionExample,
    is_region_record,
    record_generator,
    region_example,
)
from vlm_backbones.data.visual_prompts import COLORS, SHAPES
from vlm_backbones.errors import DataError

PICTURE = Image.new("RGB", (640, 480), "white")
BOXES = [[10, 10, 100, 100], [120, 10, 220, 100], [10, 150, 100, 240], [150, 150, 300, 300]]
MASK = [[20, 20, 90, 20, 90, 90, 20, 90]]
META = {
    "boxes": [[*box, 0.9] for box in BOXES],
    "segms": [[[[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]]]] for box in BOXES[:3]] + [[]],
}
RECORDS: dict[str, dict[str, Any]] = {
    "refcocog": {"id": "refcocog-refer-1", "bboxes": BOXES[:1], "segmentations": [MASK], "answer": "a cup"},
    "vg_rel": {"id": "vg_rel-x-1", "bboxes": BOXES[:2], "answer": "cup, on, table"},
    "vcr": {
        "id": "vcr-qa-1", "question": ["Why", "is", [0], "near", [1, 2], "?"],
        "answer_choices": [["Because", [index], "fell", "."] for index in range(4)], "answer_label": 2,
        "rationale_choices": [["So", "it", "is", "."], [[3], "ran", "."], ["No", "."], ["Yes", "."]],
        "rationale_label": 1, "class_names": ["person", "dog", "cup", "car"], "meta_dir": "./dataset/x.json",
    },
    "flickr30k": {
        "id": "flickr30k-x-1", "bbox": [BOXES[:2], BOXES[2:3]], "grounding": "two men <bbox0> near a dog <bbox1>",
    },
    "v7w": {"id": "v7w-which-1", "question": "Which is red?", "bboxes": BOXES, "answer": BOXES[2]},
    "pointQA_twice": {
        "id": "pointQA_twice-x-1", "bboxes": BOXES[:1], "general_question": "How many cups?", "answer": 3,
    },
}  # fmt: skip


def example(name: str, seed: int = 0, **changes: Any) -> RegionExample:
    row = {**copy.deepcopy(RECORDS[name]), **changes}
    meta = META if name == "vcr" else None
    return region_example(row, PICTURE, record_generator(seed, row["id"]), vcr_meta=meta)


@pytest.mark.parametrize("name", RECORDS)
def test_every_kind_is_drawn_and_shows_its_image_first(name: str) -> None:
    assert set(RECORDS) == set(REGION_PREFIXES)
    for seed in range(40):
        made = example(name, seed)
        assert [message["from"] for message in made.conversations] == ["human", "gpt"] * (len(made.conversations) // 2)
        assert made.conversations[0]["value"].startswith("<image>\n")
        assert sum(message["value"].count("<image>") for message in made.conversations) == 1
        assert all(message["value"].strip() for message in made.conversations)
        assert not any("<bbox" in message["value"] for message in made.conversations)
        assert (np.asarray(made.image) != 255).any()


@pytest.mark.parametrize("name", RECORDS)
def test_the_same_epoch_is_the_same_example_and_another_is_not(name: str) -> None:
    def read(seed: int, epoch: int) -> RegionExample:
        rng = record_generator(seed, RECORDS[name]["id"], epoch)
        return region_example(RECORDS[name], PICTURE, rng, vcr_meta=META if name == "vcr" else None)

    one, again = read(7, 0), read(7, 0)
    assert one.image.tobytes() == again.image.tobytes()
    assert one.conversations == again.conversations
    pictures = {read(7, epoch).image.tobytes() for epoch in range(8)} | {read(8, 0).image.tobytes()}
    assert len(pictures) > 1


def test_visual7w_asks_for_the_letter_of_the_right_box() -> None:
    made = example("v7w", 3)
    colors = [prompt.color.name for prompt in made.prompts]
    assert len(set(colors)) == 4 and None not in colors  # noqa: PT018
    lines = made.conversations[0]["value"].split("\n")
    assert lines[:2] == ["<image>", "Which is red?"]
    for letter, line, color in zip("ABCD", lines[2:6], colors, strict=True):
        assert re.fullmatch(rf"{letter}\. The object within (the )?{color} rectangle", line)
    assert lines[6] == "Answer with the option's letter from the given choices directly."
    assert made.conversations[1]["value"] == "C"
    assert {prompt.strokes[0].width for prompt in made.prompts} == {5}  # int(3 * 640 / 336)


def test_pointqa_counts_what_the_red_rectangle_shows() -> None:
    made = example("pointQA_twice")
    assert made.conversations == [
        {
            "from": "human",
            "value": "<image>\nHow many cups? The exemplary object is within the rectangle."
            "\nAnswer the question using a single word or phrase.",
        },
        {"from": "gpt", "value": "3"},
    ]
    assert made.prompts[0].color.rgb == (255, 0, 0)


def test_a_relation_of_different_shapes_has_one_colour_and_of_equal_shapes_two_names() -> None:
    seen = Counter()
    for seed in range(200):
        first, second = example("vg_rel", seed).prompts
        equal = first.shape == second.shape
        seen[equal] += 1
        assert {first.shape, second.shape} <= {"rectangle", "ellipse"}
        if equal:
            assert first.color.name and second.color.name and first.color != second.color  # noqa: PT018
        else:
            assert first.color == second.color
    assert min(seen.values()) > 60
    text = example("vg_rel").conversations[0]["value"]
    assert re.search(
        r"the subject within the [a-z ]+ and the object within the [a-z ]+\. Provide a short triplet", text
    )


def test_refcocog_uses_all_shapes_and_stored_conversations_get_the_words() -> None:
    assert {example("refcocog", seed).prompts[0].shape for seed in range(120)} == set(SHAPES)
    without = {example("refcocog", seed, segmentations=None).prompts[0].shape for seed in range(120)}
    assert "point" not in without and len(without) == 7  # noqa: PT018
    asked = Counter(example("refcocog", seed).conversations[0]["value"] for seed in range(400))
    assert asked["<image>\nDescribe the object . Please provide a short phrase."] == pytest.approx(300, abs=40)
    stored = [{"from": "human", "value": "What is <bbox>?"}, {"from": "gpt", "value": "A cup."}]
    made = example("refcocog", 1, id="refcocog-gpt4v-1", conversations=stored)
    prompt = made.prompts[0]
    color = f" {prompt.color.name}" if prompt.color.name else ""
    assert made.conversations[0]["value"].endswith(f"the{color} {prompt.shape}?")


def test_colours_of_many_regions() -> None:
    """Regions of one shape never share a colour name; after nine names colours are random and unnamed."""
    many = [[[index * 10, 0, index * 10 + 9, 9]] for index in range(40)]
    made = example("flickr30k", 5, bbox=many, grounding="x <bbox39>")
    for shape in ("rectangle", "ellipse", "arrow"):
        names = [prompt.color.name for prompt in made.prompts if prompt.shape == shape]
        assert set(names[:9]) == set(COLORS)
        assert set(names[9:]) == {None}
    alone = Counter(
        example("flickr30k", seed, bbox=many[:1], grounding="x").prompts[0].color.name is None for seed in range(300)
    )
    assert alone[True] == pytest.approx(150, abs=40)


def test_flickr_draws_every_box_of_a_tag_with_its_mark() -> None:
    made = example("flickr30k", 2)
    assert len(made.prompts) == 3
    assert (made.prompts[0].shape, made.prompts[0].color) == (made.prompts[1].shape, made.prompts[1].color)
    answers = {example("flickr30k", seed).conversations[1]["value"] for seed in range(60)}
    assert "Two men near a dog." in answers
    assert any(" the red " in answer or " the blue " in answer for answer in answers)


def test_vcr_names_the_objects_of_its_text_by_their_marks() -> None:
    lengths = Counter()
    for seed in range(80):
        made = example("vcr", seed)
        question, answer, why, reason = (message["value"] for message in made.conversations)
        assert "point" not in {prompt.shape for prompt in made.prompts}
        lengths["options" if "(A)" in question else "open"] += 1
        assert answer.startswith("(C)") if "(A)" in question else answer.startswith("Because")
        assert reason.startswith("(B)") if "(A)" in why else reason.endswith(" ran.")
        assert re.search(r"the (person|object|instance) (within|with|pointed to by)", question.lower())
    assert min(lengths.values()) > 20


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("v7w", {"answer": [0, 0, 1, 1]}, r"the answer \[0.0, 0.0, 1.0, 1.0\] is none of the four boxes"),
        ("v7w", {"bboxes": BOXES[:3]}, "bboxes"),
        ("v7w", {"question": None}, "question is 'None'"),
        ("vg_rel", {"bboxes": BOXES[:1]}, "a relation has a subject and an object"),
        ("refcocog", {"segmentations": [MASK, MASK]}, "2 segmentations for 1 boxes"),
        ("refcocog", {"segmentations": [[[1, 2]]]}, "at least three points"),
        ("refcocog", {"answer": ""}, "the record has no answer"),
        ("refcocog", {"id": "refcocog-gpt4v-1"}, "a gpt4v record needs conversations"),
        ("flickr30k", {"grounding": "a <bbox7>"}, "grounding names <bbox7>, but bbox has 2 entries"),
        ("vcr", {"answer_label": 9}, "answer_label 9 is none of 4 choices"),
        ("vcr", {"question": ["Is", [17], "?"]}, "the text names object 17"),
        ("pointQA_twice", {"bboxes": [[30, 30, 20, 20]]}, "ends before it starts"),
    ],
)
def test_bad_records_are_named(name: str, changes: dict[str, Any], message: str) -> None:
    row = {**RECORDS[name], **changes}
    with pytest.raises(DataError, match=message) as error:
        region_example(row, PICTURE, record_generator(0, "x"), place="rows.json row 7", vcr_meta=META)
    assert str(error.value).startswith("rows.json row 7: ")


def test_other_rows_are_no_region_records() -> None:
    assert is_region_record(RECORDS["v7w"])
    assert not is_region_record({"id": "coco_1"})
    with pytest.raises(DataError, match=r"no region record\. Expected an id that starts with refcocog"):
        region_example({"id": "coco-1"}, PICTURE, record_generator(0, "x"))
    with pytest.raises(DataError, match="needs the file that meta_dir names"):
        region_example(RECORDS["vcr"], PICTURE, record_generator(0, "x"))

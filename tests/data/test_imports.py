"""Users' tables become dataset folders that tasks and training read; bad rows are named."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest
from PIL import Image

from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.conversations import load_examples
from vlm_backbones.data.imports.columns import guess_columns
from vlm_backbones.data.imports.tables import picture_of, read_table
from vlm_backbones.data.imports.task_tables import SEISMIC_TASKS, Imported, import_table, roles_of
from vlm_backbones.data.imports.vqav2 import import_vqav2
from vlm_backbones.data.imports.write import save_split
from vlm_backbones.errors import ConfigError, DataError
from vlm_backbones.scoring import vqa_accuracy
from vlm_backbones.tasks import data as task_data
from vlm_backbones.tasks.seismic_coords.utils import process_results as score_place
from vlm_backbones.tasks.seismic_description.utils import process_results as score_description


def encoded(color: str = "red", kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (12, 8), color).save(stream, kind)
    return stream.getvalue()


EVENTS: list[dict[str, Any]] = [
    {"id": "us1", "ShakeMap": {"bytes": encoded("red"), "path": None}, "Lat": 36.12, "Lng": 142.86, "mag": 6.3,
     "depth": 24, "place": "Japan", "mmi": 6.2, "caption": "A magnitude 6.3 earthquake near Japan."},
    {"id": "us2", "ShakeMap": {"bytes": encoded("blue"), "path": None}, "Lat": -8.0, "Lng": -75.5, "mag": 5.9,
     "depth": 110, "place": "Peru", "mmi": 4.0, "caption": "A deep earthquake near Peru."},
]  # fmt: skip


def import_multiseismo(source: Path, out: Path, **options: Any) -> Imported:
    return import_table(source, out, tasks=SEISMIC_TASKS, **options)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pl.DataFrame(rows).write_parquet(path)
    return path


def test_multiseismo_columns_are_guessed_for_both_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = import_multiseismo(write_parquet(tmp_path / "events.parquet", EVENTS), tmp_path / "out")
    assert made.columns.found == {
        "image": "ShakeMap", "event_id": "id", "latitude": "Lat", "longitude": "Lng", "description": "caption",
        "magnitude": "mag", "depth_km": "depth", "region": "place", "max_intensity": "mmi",
    }  # fmt: skip
    assert made.counts == {"seismic_description": 2, "seismic_coords": 2}
    monkeypatch.setenv("VLM_BACKBONES_DATA", str(tmp_path / "out"))
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    place = datasets.load_from_disk(task_data.SEISMIC_COORDS)["test"][0]
    assert (place["latitude"], place["longitude"], place["event_id"]) == (36.12, 142.86, "us1")
    assert place["image"].convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert score_place(place, ['{"lat": 36.1, "lon": 142.9}'])["within_100_km"] == 1.0
    event = datasets.load_from_disk(task_data.SEISMIC_DESCRIPTION)["test"][0]
    assert (event["max_intensity"], event["quadrant"]) == ("VI", None)  # 6.2 rounds to VI; no such column
    scored = score_description(event, ["A magnitude 6.3 earthquake at 24 km depth near Japan, intensity VI."])
    assert scored["fact_score"] == 1.0  # four facts are known, the fifth is not judged
    assert json.loads(event["targets"])["latitude"] == 36.12


def test_imported_data_can_be_trained_on(tmp_path: Path) -> None:
    import_multiseismo(write_parquet(tmp_path / "events.parquet", EVENTS), tmp_path / "out", split="train")
    examples = load_examples([tmp_path / "out"])
    assert len(examples) == 2  # one a picture, its turns of both tasks
    answers = {turn.answer for turn in examples[0].turns}
    assert '{"lat": 36.1, "lon": 142.9}' in answers
    assert "A magnitude 6.3 earthquake near Japan." in answers


def test_columns_are_named_by_the_user_where_names_say_nothing(tmp_path: Path) -> None:
    rows = [{"y": row["Lat"], "x": row["Lng"], "pic": row["ShakeMap"]} for row in EVENTS]
    source = write_parquet(tmp_path / "odd.parquet", rows)
    with pytest.raises(DataError) as error:
        import_multiseismo(source, tmp_path / "out")
    assert "seismic_description lacks image, description; seismic_coords lacks image, latitude" in str(error.value)
    assert "taken: nothing; not used: y, x, pic. Say which with --column ROLE=COLUMN." in str(error.value)
    given = {"latitude": "y", "longitude": "x", "image": "pic"}
    made = import_multiseismo(source, tmp_path / "out", columns=given)
    assert made.counts == {"seismic_coords": 2}
    with pytest.raises(DataError, match="exists already"):
        import_multiseismo(source, tmp_path / "out", columns=given)
    with pytest.raises(ConfigError, match=r"no such column\. Known: pic, x, y"):
        guess_columns(["x", "y", "pic"], ["latitude"], {"latitude": "latitudes"})
    with pytest.raises(ConfigError, match=r"unknown role 'lattitude'\. Did you mean 'latitude'"):
        guess_columns(["x"], ["latitude"], {"lattitude": "x"})


def test_a_known_name_among_a_columns_words_is_enough_and_doubt_is_shown(tmp_path: Path) -> None:
    """Names as catalogues have them; what only describes a fact (its error, its type) is never taken for it."""
    columns = ["eventID", "epicenter_lat", "epicenterLongitude", "focal_depth", "depthError", "magType", "mag_value",
               "MMI_max", "shakemap_png", "image_width"]  # fmt: skip
    taken = guess_columns(columns, roles_of(SEISMIC_TASKS), {})
    assert taken.found == {
        "image": "shakemap_png", "event_id": "eventID", "latitude": "epicenter_lat", "longitude": "epicenterLongitude",
        "magnitude": "mag_value", "depth_km": "focal_depth", "max_intensity": "MMI_max",
    }  # fmt: skip
    assert taken.unused == ["depthError", "magType", "image_width"]
    doubt = guess_columns(["lat_first", "lat_last"], ["latitude"], {})
    assert (doubt.found, doubt.unclear) == ({}, {"latitude": ["lat_first", "lat_last"]})
    rows = [{"first_lat": 1.0, "last_lat": 2.0, "lon": 3.0, "image": encoded()}]
    with pytest.raises(DataError, match=r"taken: image=image, longitude=lon; latitude may be first_lat or last_lat"):
        import_multiseismo(write_parquet(tmp_path / "two.parquet", rows), tmp_path / "out")


def test_what_was_taken_for_what_is_shown_where_rows_are_bad(tmp_path: Path) -> None:
    rows = [{"lat": 1.0, "lon": 3.0, "image": encoded(), "depth_text": "deep"}]
    with pytest.raises(DataError) as error:
        import_multiseismo(write_parquet(tmp_path / "events.parquet", rows), tmp_path / "out")
    assert "row 0: depth_km is 'deep', expected a number" in str(error.value)
    assert "depth_km=depth_text" in str(error.value)


def test_every_bad_event_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    rows = [
        {**EVENTS[0], "Lat": 91.0}, {**EVENTS[0], "mag": None, "mmi": 99.0},
        {**EVENTS[0], "ShakeMap": {"bytes": b"no", "path": None}}, {**EVENTS[0], "caption": " "},
    ]  # fmt: skip
    with pytest.raises(DataError) as error:
        import_multiseismo(write_parquet(tmp_path / "events.parquet", rows), tmp_path / "out")
    for message in (
        "events.parquet row 0: latitude is 91.0, expected degrees from -90 to 90",
        "events.parquet row 1: max_intensity is '99.0', expected I to XII or 1 to 12",
        "events.parquet row 2: the image is corrupt",
        "events.parquet row 3: the description is empty",
    ):
        assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_number_beyond_every_float_is_named(tmp_path: Path) -> None:
    event = {"image": "a.png", "event_id": "e", "description": "d", "magnitude": 10**400}
    (tmp_path / "a.png").write_bytes(encoded())
    (tmp_path / "rows.jsonl").write_text(json.dumps(event))
    with pytest.raises(DataError, match="magnitude is 1000"):
        import_table(tmp_path / "rows.jsonl", tmp_path / "out", tasks=("seismic_description",))


def write_vqav2(folder: Path, *, pictures: bool = True) -> Path:
    (folder / "val2014").mkdir(parents=True)
    questions = [
        {"image_id": 42, "question": "Is it red?", "question_id": 420},
        {"image_id": 42, "question": "What is it?", "question_id": 421},
        {"image_id": 7, "question": "How many?", "question_id": 70},
    ]
    kinds = {420: "yes/no", 421: "other", 70: "number"}
    annotations = [
        {"question_id": key, "image_id": 0, "question_type": "what", "answer_type": kind, "multiple_choice_answer": "x",
         "answers": [{"answer": f"{kind}{place // 5}", "answer_confidence": "yes", "answer_id": place}
                     for place in range(10)]}
        for key, kind in kinds.items()
    ]  # fmt: skip
    content = {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": "val2014"}
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({**content, "questions": questions}))
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({**content, "annotations": annotations}))
    for image in (42, 7) if pictures else (42,):
        (folder / "val2014" / f"COCO_val2014_{image:012d}.jpg").write_bytes(encoded(kind="JPEG"))
    return folder


def test_vqav2_keeps_ten_answers_and_the_official_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert import_vqav2(write_vqav2(tmp_path / "vqa"), tmp_path / "out") == 3
    monkeypatch.setenv("VLM_BACKBONES_DATA", str(tmp_path / "out"))
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    rows = datasets.load_from_disk(task_data.VQA_SCENE)["test"]
    assert rows["question_type"][:] == ["yes/no", "other", "number"]
    assert rows[0]["options"] == ["yes", "no"]
    assert rows[1]["options"] == []
    assert len(rows[2]["answers"]) == 10
    assert vqa_accuracy("number0", rows[2]["answers"]) == 1.0
    assert "paraphrase" not in rows.column_names  # so that the condition of that name is skipped
    assert rows[0]["image"].size == (12, 8)
    assert import_vqav2(tmp_path / "vqa", tmp_path / "few", limit=1) == 1


def test_vqav2_problems_are_named(tmp_path: Path) -> None:
    folder = write_vqav2(tmp_path / "vqa", pictures=False)
    with pytest.raises(DataError, match=r"question 70 \(row 2\): no picture of image 7 in .*COCO_val2014_000000000007"):
        import_vqav2(folder, tmp_path / "out")
    with pytest.raises(DataError, match=r"no folder .*nowhere with the pictures"):
        import_vqav2(folder, tmp_path / "out", images=folder / "nowhere")
    notes = folder / "v2_mscoco_val2014_annotations.json"
    content = json.loads(notes.read_text())
    notes.write_text(json.dumps({"annotations": content["annotations"][:1]}))
    with pytest.raises(DataError, match="2 bad rows"):
        import_vqav2(folder, tmp_path / "out")
    notes.write_text(json.dumps({"annotations": [{**content["annotations"][0], "answer_type": "odd"}]}))
    with pytest.raises(DataError, match=r"annotations\.0\.answer_type is 'odd'"):
        import_vqav2(folder, tmp_path / "out")
    notes.write_text("{")
    with pytest.raises(DataError, match="is not valid JSON"):
        import_vqav2(folder, tmp_path / "out")
    notes.unlink()
    with pytest.raises(DataError, match=r"expected one \*annotations\*\.json of VQAv2, found none"):
        import_vqav2(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"data_subtype": ".."}, r"no folder .*vqa/\.\."),  # pictures lie beside the questions, nowhere else
        ({"data_subtype": "/"}, "no folder /"),
        ({"data_subtype": "a" * 5000}, "no folder .*aaa"),
        ({"data_subtype": ""}, "no folder"),
        ({"questions": [{"image_id": 10**300, "question": "?", "question_id": 70}]}, "no picture of image 1000"),
    ],
)
def test_hostile_vqav2_questions_are_refused(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    folder = write_vqav2(tmp_path / "vqa")
    file = folder / "v2_OpenEnded_mscoco_val2014_questions.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=expected):
        import_vqav2(folder, tmp_path / "out")


def test_half_a_character_is_refused_where_rows_are_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot write .*a text holds '\\ud800', half of a character"):
        save_split(tmp_path / "split", [{"answer": "\ud800"}], {"answer": "text"})


def test_tables_are_read_in_three_forms(tmp_path: Path) -> None:
    rows = [{"a": "1", "b": "x, y"}, {"a": "2", "b": "\u00e9"}]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    (tmp_path / "t.json").write_text(json.dumps(rows))
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    pl.DataFrame(rows).write_parquet(tmp_path / "t.parquet")
    for name in ("t.jsonl", "t.json", "t.csv", "t.parquet"):
        table = read_table(tmp_path / name)
        assert table.columns == ["a", "b"]
        assert [row for _, row in table.rows()] == rows
        assert next(table.rows())[0] == f"{tmp_path / name} row 0"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", b'{"a": 1}\n{"a"', r"t\.jsonl line 2 is not valid JSON"),
        ("t.jsonl", b"[1]", "line 1 is '.1.', expected a JSON object"),
        ("t.json", b'{"a": 1}', "holds no list of objects"),
        ("t.csv", b"a,b\n1\n", "line 2: not as many cells as columns"),
        ("t.csv", b"a\n\xff\n", "no UTF-8 CSV"),
        ("t.parquet", b"PAR", "no readable parquet file"),
        ("t.xlsx", b"", r"no \.jsonl, \.json, \.csv, \.parquet file"),
        ("t.csv", b"a,b\n", "has no rows"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_table(tmp_path / name).rows())


def test_a_damaged_text_of_a_table_is_one_error(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pl.DataFrame({"a": ["a word"]}).write_parquet(file, compression="uncompressed", statistics=False)
    file.write_bytes(file.read_bytes().replace(b"a word", b"a \xd2ord"))
    with pytest.raises(DataError, match=r"no readable parquet file"):
        list(read_table(file).rows())


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.jsonl", b'{"a": 1}\n{"a"\n[1]\n{"a": 2}\n{"\xff": 1}\n'), ("t.csv", b"a,b\n1,2\n3\n4,5,6\n7,8\n9\n")],
)
def test_every_malformed_line_of_a_table_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    bad = BadRows()
    read = read_table(tmp_path / name).rows(bad)
    assert [place.rpartition(" row ")[2] for place, _ in read] == ["0", "3"]  # rows keep their numbers
    with pytest.raises(DataError, match=r"^3 bad rows:\n(  - .* line \d.*\n?){3}$"):
        bad.refuse()


def test_pictures_stay_under_their_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded())
    (tmp_path / "b.png").write_bytes(encoded())
    assert picture_of("a.png", tmp_path / "in", "row 0") == encoded()
    for cell, message in (("../b.png", "lies outside"), ("c.png", "cannot be read"), (None, "the image is 'None'")):
        with pytest.raises(DataError, match=f"row 0: .*{message}"):
            picture_of(cell, tmp_path / "in", "row 0")

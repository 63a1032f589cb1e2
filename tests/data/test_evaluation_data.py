"""A test split is read before anything is trained: what cannot be asked or scored is refused, all rows at once."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image, ImageFile

from vlm_backbones.data.evaluation_data import check_test_split
from vlm_backbones.errors import DataError

TEXTS = datasets.List(datasets.Value("string"))
NUMBER, TEXT = datasets.Value("float64"), datasets.Value("string")
FEATURES = {
    "vqa_scene": {"question": TEXT, "answers": TEXTS, "options": TEXTS},
    "seismic_description": {
        "description": TEXT, "magnitude": NUMBER, "depth_km": NUMBER, "region": TEXT, "quadrant": TEXT,
        "max_intensity": TEXT,
    },
    "seismic_coords": {"latitude": NUMBER, "longitude": NUMBER},
}  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "vqa_scene": {"question": "How many?", "answers": ["2"], "options": []},
    "seismic_description": {
        "description": "A magnitude 6.0 earthquake.", "magnitude": 6.0, "depth_km": None, "region": "Japan",
        "quadrant": "northeast", "max_intensity": "VI",
    },
    "seismic_coords": {"latitude": -90.0, "longitude": 180.0},
}  # fmt: skip


def png(side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((side, side), 50).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, task: str, changes: list[dict[str, Any]]) -> Path:
    """Write the test split of a task: a good row with each of these changes."""
    picture = {"bytes": png(), "path": None}
    rows = [{"image": picture, **GOOD[task], **change} for change in changes]
    features = datasets.Features({"image": datasets.Image(), **FEATURES[task]})
    split = folder / task / "test"
    columns = {name: [row[name] for row in rows] for name in features}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(split)
    return split


def refused(folder: Path, task: str, *, decode: bool = True) -> str:
    with pytest.raises(DataError) as caught:
        check_test_split(task, folder, decode=decode)
    return str(caught.value)


@pytest.mark.parametrize("task", GOOD)
def test_good_rows_pass(tmp_path: Path, task: str) -> None:
    write(tmp_path, task, [{}, {}])
    check_test_split(task, tmp_path, decode=True)


@pytest.mark.parametrize(
    ("task", "change", "found"),
    [
        ("vqa_scene", {"question": "What <image> is it?"}, "question holds '<image>', the image's token. Remove it"),
        ("seismic_coords", {"latitude": math.nan}, "latitude is nan; expected degrees between -90 and 90"),
        ("seismic_coords", {"latitude": 90.1}, "latitude is 90.1"),
        ("seismic_coords", {"latitude": None}, "latitude is None"),
        ("seismic_coords", {"longitude": -math.inf}, "longitude is -inf; expected degrees between -180 and 180"),
        ("seismic_coords", {"longitude": 181.0}, "longitude is 181.0"),
        ("vqa_scene", {"question": None}, "question is None"),
        ("vqa_scene", {"answers": []}, r"answers is \[\]; expected a list of one text or more"),
        ("vqa_scene", {"answers": None}, "answers is None"),
        ("vqa_scene", {"answers": ["a", None]}, r"answers is \['a', None\]"),
        ("seismic_description", {"description": " "}, "description is ' '"),
        ("seismic_description", {"magnitude": math.nan}, "magnitude is nan; expected a number"),
    ],
)
def test_a_value_that_cannot_be_asked_or_scored_is_named(
    tmp_path: Path, task: str, change: dict[str, Any], found: str
) -> None:
    split = write(tmp_path, task, [{}, change])
    with pytest.raises(DataError, match=found) as caught:
        check_test_split(task, tmp_path, decode=False)
    assert str(caught.value).startswith(f"{split} row 1: ")


def test_all_bad_rows_come_at_once_and_broken_pixels_are_found_by_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)  # lmms-eval sets it, where it was imported before
    cut = {"bytes": png(64)[:300], "path": None}
    pictures = [None, {"bytes": b"no picture", "path": None}, cut, cut]
    split = write(tmp_path, "seismic_coords", [{"image": picture} for picture in pictures] + [{"latitude": 99.0}])
    mend = "Replace it or drop the row."
    assert refused(tmp_path, "seismic_coords").splitlines() == [
        "5 bad rows:",
        f"  - {split} row 0: the image is missing.",
        f"  - {split} row 4: latitude is 99.0; expected degrees between -90 and 90. Mend or drop the row.",
        f"  - {split} row 1: the image is corrupt or no picture (cannot identify image file). {mend}",
        f"  - {split} row 2: the image is corrupt or no picture (image file is truncated). {mend}",
        f"  - {split} row 3: the image is corrupt or no picture (image file is truncated). {mend}",
    ]
    assert refused(tmp_path, "seismic_coords", decode=False).startswith("3 bad rows:")


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95])
def test_a_cut_data_file_is_named(tmp_path: Path, kept: float) -> None:
    split = write(tmp_path, "vqa_scene", [{}] * 9)
    (file,) = split.glob("*.arrow")
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    assert refused(tmp_path, "vqa_scene").startswith(f"{split}: cannot be read as a dataset (")


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
@pytest.mark.parametrize("content", ["[", "[]", "null"])
def test_a_spoilt_description_of_the_split_is_named(tmp_path: Path, name: str, content: str) -> None:
    split = write(tmp_path, "vqa_scene", [{}])
    (split / name).write_text(content)
    assert refused(tmp_path, "vqa_scene").startswith(f"{split}: cannot be read as a dataset (")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert "no dataset of task 'vqa_scene' in" in refused(tmp_path, "vqa_scene")
    split = write(tmp_path, "vqa_scene", [{}])
    datasets.load_from_disk(str(split)).remove_columns(["options"]).save_to_disk(tmp_path / "b" / "vqa_scene" / "test")
    assert "columns ['options'] are missing" in refused(tmp_path / "b", "vqa_scene")
    write(tmp_path / "c", "vqa_scene", [])
    assert "is empty: expected at least one row" in refused(tmp_path / "c", "vqa_scene")


def test_an_image_column_that_gives_no_pictures_is_refused(tmp_path: Path) -> None:
    split = write(tmp_path, "vqa_scene", [{}])
    undecoded = datasets.load_from_disk(str(split)).cast_column("image", datasets.Image(decode=False))
    undecoded.save_to_disk(tmp_path / "b" / "vqa_scene" / "test")
    assert json.loads((tmp_path / "b" / "vqa_scene" / "test" / "dataset_info.json").read_text())
    assert "expected pictures. Cast it to datasets.Image()" in refused(tmp_path / "b", "vqa_scene")


def test_a_damaged_text_is_one_error(tmp_path: Path) -> None:
    (file,) = write(tmp_path, "vqa_scene", [{}]).glob("*.arrow")
    file.write_bytes(file.read_bytes().replace(b"How many?", b"How \xd2any?"))
    assert "vqa_scene/test: cannot be read as a dataset" in refused(tmp_path, "vqa_scene")

"""The pocket datasets: columns, sizes, determinism, safe building, and the import of a user's catalogue."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from vlm_backbones.data.evaluation_data import check_test_split
from vlm_backbones.errors import DataError
from vlm_backbones.pocket.datasets import SPLITS, TASKS, ensure_pocket_data, import_earthquakes
from vlm_backbones.tasks import data as task_data

COLUMNS = {
    "vqa_scene": {
        "image", "question", "paraphrase", "answers", "options", "question_type", "image_id", "question_id", "targets",
    },
    "seismic_description": {
        "image", "event_id", "description", "magnitude", "depth_km", "region", "quadrant", "max_intensity", "image_id",
        "targets",
    },
    "seismic_coords": {"image", "event_id", "latitude", "longitude", "frame", "image_id", "targets"},
}  # fmt: skip


@pytest.fixture(scope="module")
def pocket() -> Path:
    return ensure_pocket_data()


@pytest.mark.parametrize("task", TASKS)
def test_columns_and_sizes(pocket: Path, task: str) -> None:
    for split in SPLITS:
        table = datasets.load_from_disk(str(pocket / task / split))
        assert set(table.column_names) == COLUMNS[task]
        assert table[0]["image"].size == (112, 112)
        assert isinstance(json.loads(table[0]["targets"]), dict)
    assert len(table) >= 600


def test_no_picture_of_the_test_split_is_in_training(pocket: Path) -> None:
    for task in TASKS:
        digests = {
            split: {
                hashlib.sha256(row["image"]["bytes"]).hexdigest()
                for row in datasets.load_from_disk(str(pocket / task / split)).cast_column(
                    "image", datasets.Image(decode=False)
                )
            }
            for split in ("train", "test")
        }
        assert digests["test"]
        assert not digests["train"] & digests["test"]


def test_two_processes_build_at_once_and_the_bytes_are_equal(tmp_path: Path, pocket: Path) -> None:
    code = "from vlm_backbones.pocket.datasets import ensure_pocket_data as e; print(e())"
    environment = {**os.environ, "VLM_BACKBONES_CACHE": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0]
    (built,) = map(Path, folders)
    for task in TASKS:
        theirs = datasets.load_from_disk(str(built / task / "test")).cast_column("image", datasets.Image(decode=False))
        ours = datasets.load_from_disk(str(pocket / task / "test")).cast_column("image", datasets.Image(decode=False))
        assert theirs.to_dict() == ours.to_dict()
    assert not list(tmp_path.glob(".*partial"))


def test_each_task_opens_as_one_dataset_and_an_older_cache_is_completed(
    tmp_path: Path, pocket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path))
    older = Path(shutil.copytree(pocket, tmp_path / pocket.name))
    for task in TASKS:
        assert list(datasets.load_from_disk(str(pocket / task))) == list(SPLITS)
        (older / task / "dataset_dict.json").unlink(missing_ok=True)
    assert ensure_pocket_data() == older
    assert all(list(datasets.load_from_disk(str(older / task))) == list(SPLITS) for task in TASKS)
    monkeypatch.delenv("VLM_BACKBONES_DATA", raising=False)
    assert str(older / "vqa_scene") == task_data.VQA_SCENE  # no view in the cache
    assert not (tmp_path / "views").exists()


CATALOGUE = """event_id,time,latitude,longitude,depth_km,magnitude,magnitude_type,source
mine-1,2024-01-01T07:10:09Z,37.5,141.2,10,7.5,MWW,US
mine-2,2024-02-01T00:00:00Z,-51.5,139.2,10,6.1,MWW,US
"""


def test_import_leaves_out_and_counts_what_is_outside_the_windows(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(CATALOGUE)
    assert import_earthquakes(path, tmp_path / "out") == {"drawn": 1, "left_out": 1}
    table = datasets.load_from_disk(str(tmp_path / "out" / "seismic_coords" / "test"))
    assert table["event_id"][:] == ["mine-1"]
    assert table["frame"][:] == ["Japan"]


def test_import_draws_a_window_around_every_event(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(CATALOGUE)
    assert import_earthquakes(path, tmp_path / "out", frames="auto") == {"drawn": 2, "left_out": 0}
    assert len(datasets.load_from_disk(str(tmp_path / "out" / "seismic_description" / "test"))) == 2


def test_import_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(CATALOGUE)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    with pytest.raises(DataError, match="exists already"):
        import_earthquakes(path, tmp_path / "out")
    assert (tmp_path / "out" / "precious.txt").read_text() == "x"


def test_import_of_a_catalogue_outside_all_windows_names_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("".join(CATALOGUE.splitlines(keepends=True)[::2]))
    with pytest.raises(DataError, match="--frames auto"):
        import_earthquakes(path, tmp_path / "out")


HEADER = CATALOGUE.splitlines()[0]


@pytest.mark.parametrize("frames", ["pocket", "auto"])
def test_an_empty_catalogue_is_named_whatever_the_windows(tmp_path: Path, frames: Any) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(HEADER)
    with pytest.raises(DataError, match=r"mine\.csv holds no events"):
        import_earthquakes(path, tmp_path / "out", frames=frames)


@pytest.mark.parametrize("spoilt", ['a,t,1,2,5,6,"MWW,US', '"a,t,1,2,5,6,MWW,US'])
def test_an_unclosed_quote_swallows_no_rows(tmp_path: Path, spoilt: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(CATALOGUE + spoilt + "\nb,t,1,2,5,6,MWW,US\n")
    with pytest.raises(DataError, match=r"mine\.csv, after line 3: unexpected end of data\. Is a quote not closed"):
        import_earthquakes(path, tmp_path / "out", frames="auto")


def test_a_cut_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv.gz"
    path.write_bytes(gzip.compress(CATALOGUE.encode())[:60])
    with pytest.raises(DataError, match=r"mine\.csv\.gz: cannot be read"):
        import_earthquakes(path, tmp_path / "out")


def test_a_spreadsheets_mark_before_the_header_is_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(CATALOGUE, encoding="utf-8-sig")
    assert import_earthquakes(path, tmp_path / "out")["drawn"] == 1


def test_events_at_the_edge_of_the_world_and_in_one_point_can_be_asked(tmp_path: Path) -> None:
    """The poles, both sides of the date line, twice the same point; every star lies in its window."""
    places = [(90, 0), (-90, 10), (0, 180), (0, -180), (89.95, 179.99), (-89.5, -179.99), (-17, -179), (-17, -179)]
    rows = [f"e{number},t,{latitude},{longitude},10,7,," for number, (latitude, longitude) in enumerate(places)]
    (tmp_path / "all.csv").write_text("\n".join([HEADER, *rows]))
    (tmp_path / "one.csv").write_text("\n".join([HEADER, rows[0]]))
    assert import_earthquakes(tmp_path / "all.csv", tmp_path / "all", frames="auto")["drawn"] == len(places)
    assert import_earthquakes(tmp_path / "one.csv", tmp_path / "one", frames="auto")["drawn"] == 1
    for out in (tmp_path / "all", tmp_path / "one"):
        for task in ("seismic_description", "seismic_coords"):
            check_test_split(task, out, decode=True)
    quadrants = datasets.load_from_disk(str(tmp_path / "all" / "seismic_description" / "test"))["quadrant"][:]
    # the window ends at the pole, so that the star lies at its northern or southern edge
    assert [quadrant[:5] for quadrant in quadrants[:2]] == ["north", "south"]


def test_a_damaged_file_of_the_cache_is_named_and_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "vlm_backbones.pocket.datasets._SCENES", {"train": (3, 2), "validation": (3, 2), "test": (3, 2)}
    )
    monkeypatch.setattr("vlm_backbones.pocket.datasets._TRAIN_MAPS", 3)
    folder = ensure_pocket_data()
    file = next((folder / "vqa_scene" / "train").glob("*.arrow"))
    before = file.read_bytes()
    file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    capsys.readouterr()
    assert ensure_pocket_data() == folder
    assert f"{file} is gone or damaged: the pocket data is built again" in capsys.readouterr().err
    assert file.read_bytes() == before
    written = file.stat().st_mtime_ns
    ensure_pocket_data()
    assert file.stat().st_mtime_ns == written

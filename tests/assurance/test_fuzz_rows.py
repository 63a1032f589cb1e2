"""Training rows, region records, task folders and the tables of imports: read, or refused with file and row."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import datasets
import pyarrow as pa
import pytest
from fuzzing import fuzz, lawful
from PIL import Image
from spoiling import among, any_of, as_json, some, spoilt, spoilt_bytes, written

from vlm_backbones.data.conversations import load_examples
from vlm_backbones.data.evaluation_data import TASKS, check_test_split
from vlm_backbones.data.imports.new_task import write_task
from vlm_backbones.data.imports.task_tables import TASKS as TABLE_TASKS
from vlm_backbones.data.imports.task_tables import import_table
from vlm_backbones.data.imports.vqav2 import import_vqav2
from vlm_backbones.pocket.datasets import import_earthquakes
from vlm_backbones.tasks.region_common import doc_to_marked_visual
from vlm_backbones.tasks.region_data import dataset_dir

datasets.disable_progress_bars()
datasets.logging.disable_propagation()
datasets.logging.set_verbosity(60)


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(stream, "PNG")
    return stream.getvalue()


PNG = png()


@pytest.fixture(scope="module")
def pictures(out: Path) -> Iterator[Path]:
    """A folder with a.png, and outside of it a picture that no row may reach."""
    folder = out / "rows"
    (folder / "images").mkdir(parents=True)
    (folder / "a.png").write_bytes(PNG)
    (folder / "images" / "b.jpg").write_bytes(PNG)
    (out / "secret.png").write_bytes(PNG)
    (folder / "meta.json").write_bytes(as_json(META))
    return folder


# --- training rows ----------------------------------------------------------------------------------------------------

META = {"boxes": [[1, 1, 20, 20, 0.9], [5, 5, 30, 25, 0.8]], "segms": [[[[1, 1], [20, 1], [20, 20]]], []]}
LLAVA = {"id": "7", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"},
                                                        {"from": "gpt", "value": "Red."}]}  # fmt: skip
SHARE = {"id": 8, "images": ["b.png"], "messages": [
    {"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A."}]}]}  # fmt: skip
BOX = [2, 3, 20, 25]
REGIONS: list[dict[str, Any]] = [
    {"id": "refcocog-1", "image": "a.png", "bboxes": [BOX], "segmentations": [[[2, 3, 20, 3, 20, 25]]], "answer": "a"},
    {"id": "vg_rel-2", "image": "a.png", "bboxes": [BOX, [1, 1, 9, 9]], "answer": "on"},
    {"id": "flickr30k-3", "image": "a.png", "bbox": [[BOX], [BOX, BOX]], "grounding": "A man <bbox0> and <bbox1>."},
    {"id": "v7w-4", "image": "a.png", "question": "Which?", "bboxes": [BOX, [1, 1, 2, 2], [3, 3, 9, 9], [4, 4, 8, 8]],
     "answer": BOX},
    {"id": "pointQA_twice-5", "image": "a.png", "bboxes": [BOX], "general_question": "How many?", "answer": "2"},
    {"id": "vcr-6", "image": "a.png", "meta_dir": "meta.json", "class_names": ["man", "dog"], "answer_label": 0,
     "question": ["Why", [0, 1], "?"], "answer_choices": [[[0], "ran"], ["no"]], "rationale_label": 1,
     "rationale_choices": [["a"], [[1], "b"]]},
]  # fmt: skip
ROWS = [LLAVA, SHARE, *REGIONS]
ENDINGS = [".json", ".jsonl"]


def as_lines(rows: Any) -> bytes:
    return b"\n".join(map(as_json, rows if isinstance(rows, list) else [rows]))


some_rows = any_of(spoilt([ROWS]), some(spoilt(ROWS), 1, 3))


def read(folder: Path, name: str) -> None:
    """Read a file of rows and open every picture, as preflight does."""
    for example in load_examples([folder / name]):
        if example.image is not None:
            assert example.image.path is None or example.image.path.resolve().is_relative_to(folder)
            example.image.open()
            example.image.digest()


@fuzz(
    rows=written(some_rows),
    lines=written(some_rows, as_lines),
    meta=written(spoilt([META])),
)
def test_training_rows(out: Path, pictures: Path, rows: bytes, lines: bytes, meta: bytes) -> None:
    (pictures / "meta.json").write_bytes(meta)
    for ending, content in zip(ENDINGS, (rows, lines), strict=True):
        (pictures / f"rows{ending}").write_bytes(content)
        with lawful(out):
            read(pictures, f"rows{ending}")


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture(scope="module")
def good_parquet(pictures: Path) -> bytes:
    rows = [{"id": "1", "image": {"bytes": PNG, "path": None}, "conversations": LLAVA["conversations"]}]
    parquet(pictures / "good.parquet", rows)
    return (pictures / "good.parquet").read_bytes()


# --- task folders -----------------------------------------------------------------------------------------------------

CELL = {"bytes": PNG, "path": None}
FACTS = {"magnitude": 6.1, "depth_km": 10.0, "region": "Japan", "quadrant": "north", "max_intensity": "VI"}
SPLITS: dict[str, dict[str, Any]] = {
    "vqa_scene": {"image": CELL, "question": "?", "paraphrase": "??", "answers": ["red"], "options": ["red", "blue"],
                  "question_type": "t", "image_id": "i", "question_id": "q", "targets": '{"caption": "c"}'},
    "seismic_description": {"image": CELL, "event_id": "e", "description": "d", "image_id": "m",
                            "targets": '{"magnitude": 6.1}', **FACTS},
    "seismic_coords": {"image": CELL, "event_id": "e", "latitude": 1.0, "longitude": 2.0, "frame": "f",
                       "image_id": "m", "targets": "{}"},
}  # fmt: skip


SPOILT = {task: spoilt([SPLITS[task]]) for task in TASKS}


def spoilt_split(chance: Random) -> tuple[str, dict[str, Any]]:
    task = chance.choice(TASKS)
    row = SPOILT[task](chance)
    return task, row if isinstance(row, dict) else SPLITS[task]


STATE = {"_data_files": [{"filename": "data.arrow"}], "_fingerprint": "f", "_format_columns": None,
         "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None}  # fmt: skip


def write_split(folder: Path, row: dict[str, Any], info: Callable[[Any], bytes], state: bytes) -> None:
    """Write a row as `save_to_disk` does, in a tenth of its time; `info` writes the features, maybe spoilt."""
    table = pa.Table.from_pylist([row])
    features = datasets.Features.from_arrow_schema(table.schema)
    if isinstance(row.get("image"), dict) and set(row["image"]) == {"bytes", "path"}:
        features["image"] = datasets.Image()
        table = table.cast(features.arrow_schema)
    folder.mkdir(parents=True)
    with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    (folder / "dataset_info.json").write_bytes(info({"features": features.to_dict()}))
    (folder / "state.json").write_bytes(state)


def spoilt_info(chance: Random) -> Callable[[Any], bytes]:
    """Return a writer of JSON that spoils one value in four."""
    return as_json if chance.randrange(4) else lambda value: written(spoilt([value]))(chance)


@fuzz(
    split=spoilt_split,
    captions=among([True, False]),
    info=spoilt_info,
    state=any_of(*[among([as_json(STATE)])] * 3, written(spoilt([STATE]))),
)
def test_task_folders(
    out: Path, split: tuple[str, dict[str, Any]], captions: bool, info: Callable[[Any], bytes], state: bytes
) -> None:
    task, row = split
    folder = out / "tasks"
    for other in TASKS:
        shutil.rmtree(folder / other, ignore_errors=True)
    try:
        write_split(folder / task / "test", row, info, state)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # what Arrow cannot hold no folder holds
        return
    with lawful(out):
        for example in load_examples([folder], split="test", captions=captions):
            assert example.image is not None
            example.image.open()
    with lawful(out):
        check_test_split(task, folder, decode=True)


# --- the region benchmarks --------------------------------------------------------------------------------------------

V7W = {**REGIONS[3], "id": "v7w-1"}
BENCH = {"v1_0": {"answer": "a", "capability": ["rec"]}}
QUESTIONS = {"question_id": "v1_0", "image": "a.png", "text": "<image>\nWhat?"}


@fuzz(
    rows=written(spoilt([[V7W]])),
    meta=written(spoilt([BENCH])),
    questions=written(spoilt([QUESTIONS])),
)
def test_region_benchmarks(out: Path, rows: bytes, meta: bytes, questions: bytes) -> None:
    root = out / "region"
    for folder in (root, root / "ViP-Bench" / "bbox" / "images"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.png").write_bytes(PNG)
    (root / "v7w-test.json").write_bytes(rows)
    (root / "ViP-Bench" / "vip-bench-meta-data.json").write_bytes(meta)
    (root / "ViP-Bench" / "bbox" / "questions.jsonl").write_bytes(questions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLM_BACKBONES_REGION_DATA", str(root))
        for task in ("v7w", "vip_bench_bbox"):
            with lawful(out):
                for doc in datasets.load_from_disk(dataset_dir(task))["test"]:
                    assert Path(doc["image_path"]).is_relative_to(root.resolve())
                    if "record" in doc:
                        doc_to_marked_visual(doc)
    shutil.rmtree(out / "cache", ignore_errors=True)


# --- imports ----------------------------------------------------------------------------------------------------------

EVENT = {"image": "a.png", "event_id": "e", "latitude": 1, "longitude": "2.5", "description": "d", **FACTS}
QUESTION = {"image": "a.png", "question": "?", "answer": "a", "options": ["a", "b"], "question_type": "t"}
HEAD = list(EVENT)


def as_csv(table: Any) -> bytes:
    rows = table if isinstance(table, list) else [table]
    lines = [",".join(map(str, row)) if isinstance(row, list) else str(row) for row in rows]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


@fuzz(
    lines=written(some(spoilt([EVENT, QUESTION]), 1, 2), as_lines),
    table=written(spoilt([[HEAD, list(EVENT.values())]]), as_csv),
)
def test_tables_of_imports(out: Path, pictures: Path, lines: bytes, table: bytes) -> None:
    (pictures / "table.jsonl").write_bytes(lines)
    (pictures / "table.csv").write_bytes(table)
    for name in ("table.jsonl", "table.csv"):
        shutil.rmtree(out / "imported", ignore_errors=True)
        with lawful(out):
            import_table(pictures / name, out / "imported", tasks=tuple(TABLE_TASKS))
    with lawful(out):
        write_task("fuzzed", pictures / "table.jsonl", out / "imported" / "task")


ASKED = {"data_subtype": "val2014", "questions": [{"question_id": 1, "image_id": 42, "question": "?"}]}
ANNOTATED = {"annotations": [{"question_id": 1, "answer_type": "yes/no", "answers": [{"answer": "yes"}]}]}


@fuzz(asked=written(spoilt([ASKED])), annotated=written(spoilt([ANNOTATED])))
def test_official_vqa_files(out: Path, asked: bytes, annotated: bytes) -> None:
    folder = out / "vqav2"
    (folder / "val2014").mkdir(parents=True, exist_ok=True)
    (folder / "val2014" / "COCO_val2014_000000000042.png").write_bytes(PNG)
    (folder / "x_questions.json").write_bytes(asked)
    (folder / "x_annotations.json").write_bytes(annotated)
    shutil.rmtree(out / "imported", ignore_errors=True)
    with lawful(out):
        import_vqav2(folder, out / "imported")


CATALOGUE = [["event_id", "time", "latitude", "longitude", "depth_km", "magnitude", "magnitude_type", "source"],
             ["us1", "2011-03-11T05:46:24Z", "38.3", "142.4", "29", "9.1", "MW", "US"]]  # fmt: skip


GOOD_CATALOGUE = "\n".join(map(",".join, CATALOGUE)).encode()


@fuzz(
    table=spoilt_bytes(among([GOOD_CATALOGUE])),
    frames=among(["pocket", "auto"]),
)
def test_catalogues(out: Path, table: bytes, frames: Any) -> None:
    (out / "catalogue.csv").write_bytes(table)
    shutil.rmtree(out / "imported", ignore_errors=True)
    with lawful(out):
        import_earthquakes(out / "catalogue.csv", out / "imported", frames=frames)


@fuzz(chance=lambda chance: chance)
def test_damaged_parquet(out: Path, pictures: Path, good_parquet: bytes, chance: Random) -> None:
    (pictures / "rows.parquet").write_bytes(spoilt_bytes(among([good_parquet]))(chance))
    with lawful(out):
        read(pictures, "rows.parquet")
    shutil.rmtree(out / "cache", ignore_errors=True)


def test_the_good_inputs_are_good(out: Path, pictures: Path, good_parquet: bytes) -> None:
    assert good_parquet
    (pictures / "meta.json").write_bytes(as_json(META))
    (pictures / "rows.json").write_bytes(as_json(ROWS))
    read(pictures, "rows.json")
    read(pictures, "good.parquet")
    shutil.rmtree(out / "imported", ignore_errors=True)
    (pictures / "table.jsonl").write_bytes(as_json(EVENT))
    assert import_table(pictures / "table.jsonl", out / "imported", tasks=TASKS).counts == dict.fromkeys(TASKS[1:], 1)
    (pictures / "table.jsonl").write_bytes(as_json(QUESTION))
    assert write_task("fuzzed", pictures / "table.jsonl", out / "imported" / "task") == 1
    (out / "catalogue.csv").write_bytes(GOOD_CATALOGUE)
    assert import_earthquakes(out / "catalogue.csv", out / "imported" / "maps", frames="auto")["drawn"] == 1

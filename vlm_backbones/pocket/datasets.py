"""The datasets of the pocket study: built once into the user's cache, the same to the pixel. No torch.

`DIR/TASK/{train,validation,test}` in the format of `datasets.save_to_disk`; columns as in the design's table.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from PIL import Image
from rich.progress import Progress

from vlm_backbones.cache import atomic_write_text, cache_dir, partial_name
from vlm_backbones.errors import DataError, writing_remedy
from vlm_backbones.hashes import changed, listed_files, relative_sha256
from vlm_backbones.json_text import parse_json
from vlm_backbones.pocket.events import (
    Event,
    Frame,
    frame_around,
    frame_of,
    read_catalogue,
    split_events,
    training_events,
)
from vlm_backbones.pocket.questions import pick_questions
from vlm_backbones.pocket.scenes import SceneObject, caption, draw_scene, sample_scene
from vlm_backbones.pocket.shake_maps import draw_shake_map, max_intensity, quadrant
from vlm_backbones.prompts import description_sentence

__all__ = ["DATA_VERSION", "SPLITS", "TASKS", "data_dir", "ensure_pocket_data", "import_earthquakes"]

DATA_VERSION = 5
TASKS = ("vqa_scene", "seismic_description", "seismic_coords")
SPLITS = ("train", "validation", "test")
_SEED = 20261
_TEST_SEED = 20264  # of the test scenes alone: drawn anew after the pocket parts were final, looked at once
_SCENES = {"train": (5000, 6), "validation": (100, 4), "test": (300, 4)}  # scenes, questions a scene
_TRAIN_MAPS = 5000
_Row = dict[str, Any]
_Tick = Callable[[], None]


def data_dir() -> Path:
    """Return the folder of the three tasks: `VLM_BACKBONES_DATA` where set, else the pocket data.

    Raises
    ------
    DataError
        If `VLM_BACKBONES_DATA` names no folder.
    """
    named = os.environ.get("VLM_BACKBONES_DATA")
    if not named:
        return ensure_pocket_data()
    folder = Path(named).expanduser().resolve()
    if not folder.is_dir():
        raise DataError(f"VLM_BACKBONES_DATA={named} is not a folder. Name one that holds TASK/test, or unset it.")
    return folder


def ensure_pocket_data() -> Path:
    """Return the folder of the pocket data, building it once; safe when two processes build at once."""
    folder = cache_dir() / f"pocket-data-v{DATA_VERSION}"
    if _is_whole(folder):
        with suppress(OSError, DataError):  # a read-only cache is only read; evaluation alone needs these files
            _join_splits(folder)
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not _is_whole(folder):
                _publish(folder, _build)
    except OSError as error:
        raise DataError(
            f"cannot build the pocket data in {folder}: {error.strerror or error}. {writing_remedy(error)} "
            "VLM_BACKBONES_CACHE names one."
        ) from error
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether the data is there and as it was built; a file that changed since is hashed, and named where damaged."""
    try:
        note = parse_json((folder / "data.json").read_bytes())
        damaged = changed(listed_files(folder, note.get("files", {})))
    except (OSError, ValueError, AttributeError):
        return False
    if damaged:
        print(f"{damaged[0]} is gone or damaged: the pocket data is built again", file=sys.stderr, flush=True)
    return not damaged


def import_earthquakes(catalogue: Path, out: Path, *, frames: Literal["pocket", "auto"] = "pocket") -> dict[str, int]:
    """Draw the two seismic test sets for any catalogue with the columns of the shipped one.

    Parameters
    ----------
    catalogue
        CSV, plain or gzip: event_id, time, latitude, longitude, depth_km, magnitude.
    out
        A folder that does not exist yet or is empty; use it by `VLM_BACKBONES_DATA=OUT` or `data.eval`.
    frames
        "pocket": events outside the ten pocket windows are left out; "auto": a window is drawn around each.

    Returns
    -------
    {"drawn": events drawn, "left_out": events outside the windows}

    Raises
    ------
    DataError
        If the catalogue is malformed, no event is left, or `out` holds something.
    """
    if frames not in ("pocket", "auto"):
        raise DataError(f"frames is {frames!r}; expected 'pocket' or 'auto'.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists already; name a new folder.")
    events = read_catalogue(catalogue)
    placed = [(event, frame_around(event) if frames == "auto" else frame_of(event)) for event in events]
    inside = [(event, frame) for event, frame in placed if frame is not None]
    if not events:
        raise DataError(f"{catalogue} holds no events; expected one a row under the header.")
    if not inside:
        raise DataError(f"{catalogue}: none of {len(events)} events lies in a pocket window; use --frames auto.")

    def build(folder: Path, tick: _Tick) -> int:
        _save_maps(folder, "test", inside, tick)
        return len(inside)

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _publish(out, build, total=len(inside))
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}. {writing_remedy(error)}") from error
    return {"drawn": len(inside), "left_out": len(events) - len(inside)}


def _publish(folder: Path, build: Callable[[Path, _Tick], int], total: int | None = None) -> None:
    """Build into a sibling folder, then rename: a folder that exists is whole."""
    staged = partial_name(folder)
    pictures = total or sum(scenes for scenes, _ in _SCENES.values()) + _TRAIN_MAPS + 801
    try:
        with Progress(transient=True) as progress:
            bar = progress.add_task("drawing pictures", total=pictures)
            build(staged, lambda: progress.advance(bar))
        _join_splits(staged)
        files = relative_sha256(staged, staged.rglob("*.arrow"))
        note = {"version": DATA_VERSION, "seed": _SEED, "pictures": pictures, "files": files}
        (staged / "data.json").write_text(json.dumps(note, indent=1), encoding="utf-8")
        if folder.is_dir():
            shutil.rmtree(folder)
        staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _join_splits(folder: Path) -> None:
    """Make each task's splits one DatasetDict, which `datasets.load_from_disk` opens as it is."""
    for task in (folder / name for name in TASKS):
        if task.is_dir() and not (task / "dataset_dict.json").is_file():
            splits = [split for split in SPLITS if (task / split).is_dir()]
            atomic_write_text(task / "dataset_dict.json", json.dumps({"splits": splits}))


def _build(folder: Path, tick: _Tick) -> int:
    for number, split in enumerate(SPLITS):
        scenes, questions = _SCENES[split]
        rng = np.random.default_rng([_TEST_SEED if split == "test" else _SEED, number])
        _save(folder / "vqa_scene" / split, _scene_rows(split, scenes, questions, rng, tick))
    splits = split_events(read_catalogue())
    rng = np.random.default_rng([_SEED, len(SPLITS)])
    drawn = training_events(splits["train"], _TRAIN_MAPS, rng)  # a real event may be drawn twice
    _save_maps(folder, "train", list({event.event_id: (event, frame) for event, frame in drawn}.values()), tick)
    for split in ("validation", "test"):
        _save_maps(folder, split, splits[split], tick)
    return 0


def _png(image: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def _save(folder: Path, rows: Iterable[_Row]) -> None:
    import datasets

    listed = list(rows)
    columns = {name: [row[name] for row in listed] for name in listed[0]}
    plain = {name: values for name, values in columns.items() if name != "image"}
    table = datasets.Dataset.from_dict({"image": columns["image"], **plain}).cast_column("image", datasets.Image())
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.utils.logging.disable_progress_bar()
    try:
        table.save_to_disk(folder)
    finally:
        if shown:
            datasets.utils.logging.enable_progress_bar()


def scene_targets(objects: list[SceneObject]) -> dict[str, Any]:
    """Return what probes predict from a scene, and its caption."""
    counts = Counter(item.colour for item in objects)
    return {"object_count": len(objects), "colour": counts.most_common(1)[0][0], "caption": caption(objects)}


def _scene_rows(split: str, scenes: int, questions: int, rng: np.random.Generator, tick: _Tick) -> Iterator[_Row]:
    seen: Counter[tuple[str, str]] = Counter()
    for index in range(scenes):
        objects = sample_scene(rng)
        image, targets = _png(draw_scene(objects)), json.dumps(scene_targets(objects))
        for number, question in enumerate(pick_questions(objects, questions, seen, rng)):
            yield {
                "image": image,
                "question": question.question,
                "paraphrase": question.paraphrase,
                "answers": [question.answer],
                "options": list(question.options),
                "question_type": question.question_type,
                "image_id": f"{split}-scene-{index}",
                "question_id": f"{split}-scene-{index}-{number}",
                "targets": targets,
            }
        tick()


def map_targets(event: Event, frame: Frame) -> dict[str, Any]:
    """Return the facts of a shake map: magnitude, depth in km, region, quadrant, highest intensity, degrees."""
    return {
        "magnitude": round(event.magnitude, 1),
        "depth_km": round(max(event.depth_km, 0.0)),
        "region": frame.name,
        "quadrant": quadrant(event, frame),
        "max_intensity": max_intensity(event),
        "latitude": event.latitude,
        "longitude": event.longitude,
    }


def _save_maps(folder: Path, split: str, placed: list[tuple[Event, Frame]], tick: _Tick) -> None:
    descriptions, coordinates = [], []
    for event, frame in placed:
        facts = map_targets(event, frame)
        shared = {
            "image": _png(draw_shake_map(event, frame)),
            "event_id": event.event_id,
            "image_id": f"{split}-map-{event.event_id}",
            "targets": json.dumps(facts),
        }
        stated = {name: facts[name] for name in ("magnitude", "depth_km", "region", "quadrant", "max_intensity")}
        descriptions.append({**shared, "description": description_sentence(**stated), **stated})
        place = {"latitude": event.latitude, "longitude": event.longitude, "frame": frame.name}
        coordinates.append({**shared, **place})
        tick()
    _save(folder / "seismic_description" / split, descriptions)
    _save(folder / "seismic_coords" / split, coordinates)

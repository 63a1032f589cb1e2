"""The earthquake catalogue, the map windows, and the split by event.

The split of an event is decided by a hash of its id alone, so no picture of a test event can be in training.
Training adds what-if events (around real training events) and uniform ones: their ids start with `whatif-`
and `uniform-`, and none of them is in validation or test.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from vlm_backbones.errors import DataError

__all__ = ["FRAMES", "Event", "Frame", "frame_around", "frame_of", "read_catalogue", "split_events", "training_events"]

CATALOGUE = Path(__file__).parent / "assets" / "earthquakes.csv.gz"
COLUMNS = ("event_id", "time", "latitude", "longitude", "depth_km", "magnitude", "magnitude_type", "source")
_SPAN_DEGREES = 8
_MARGIN_DEGREES = 0.2
_TEST_SHARE, _VALIDATION_SHARE = 0.21, 0.05
_REAL_SHARE, _WHAT_IF_SHARE = 0.30, 0.45


@dataclass(frozen=True)
class Frame:
    """A map window of 8 x 8 degrees, named, with its south-west corner in whole degrees."""

    name: str
    south: float
    west: float

    @property
    def north(self) -> float:
        """Northern edge in degrees."""
        return self.south + _SPAN_DEGREES

    @property
    def east(self) -> float:
        """Eastern edge in degrees; may pass 180 where a window spans the date line."""
        return self.west + _SPAN_DEGREES

    def offset(self, latitude: float, longitude: float) -> tuple[float, float]:
        """Return (degrees north of the southern edge, degrees east of the western edge)."""
        return latitude - self.south, (longitude - self.west) % 360.0

    def contains(self, latitude: float, longitude: float) -> bool:
        """Return whether a point lies inside by at least 0.2 degrees."""
        low, high = _MARGIN_DEGREES, _SPAN_DEGREES - _MARGIN_DEGREES
        return all(low <= value <= high for value in self.offset(latitude, longitude))


FRAMES = (
    Frame("Japan", 34, 138),
    Frame("Kuril", 43, 148),
    Frame("Taiwan", 18, 118),
    Frame("Philippines", 5, 121),
    Frame("Sumatra", -6, 95),
    Frame("Solomon", -12, 152),
    Frame("Chile", -36, -75),
    Frame("Peru", -18, -80),
    Frame("Mexico", 13, -104),
    Frame("Greece", 34, 19),
)


@dataclass(frozen=True)
class Event:
    """One earthquake: degrees WGS 84, depth in km, moment magnitude or the catalogue's own."""

    event_id: str
    latitude: float
    longitude: float
    depth_km: float
    magnitude: float


def frame_of(event: Event) -> Frame | None:
    """Return the pocket window that holds an event, or None."""
    return next((frame for frame in FRAMES if frame.contains(event.latitude, event.longitude)), None)


def frame_around(event: Event) -> Frame:
    """Return a window that holds an event off its centre by up to three degrees, decided by the event's id."""
    digest = hashlib.sha256(event.event_id.encode()).digest()
    shift = [(digest[byte] / 255.0 - 0.5) * 6.0 for byte in (0, 1)]
    half = _SPAN_DEGREES / 2
    south = min(max(math.floor(event.latitude - half + shift[0]), -90), 90 - _SPAN_DEGREES)
    west = (math.floor(event.longitude - half + shift[1]) + 180) % 360 - 180
    name = f"{abs(south)}{'N' if south >= 0 else 'S'} {abs(west)}{'E' if west >= 0 else 'W'}"
    return Frame(name, south, west)


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", newline="", encoding="utf-8-sig")  # spreadsheets start their files with a mark
    return path.open(newline="", encoding="utf-8-sig")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield each row with the number of its last line."""
    line = 1
    try:
        with _open_text(path) as text:
            reader = csv.DictReader(text, strict=True)
            missing = [name for name in COLUMNS[:6] if name not in (reader.fieldnames or [])]
            if missing:
                raise DataError(f"{path}: columns {missing} are missing; expected {list(COLUMNS)}.")
            for row in reader:
                line = reader.line_num
                yield line, row
    except csv.Error as error:
        raise DataError(f"{path}, after line {line}: {error}. Is a quote not closed?") from error
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as a CSV catalogue ({error}).") from error


def read_catalogue(path: Path = CATALOGUE) -> list[Event]:
    """Read a catalogue with the columns of the shipped one (CSV, plain or gzip).

    Raises
    ------
    DataError
        If a column is missing, or a row holds no number or one out of range; names file and row.
    """
    events, seen = [], set()
    limits = {"latitude": (-90, 90), "longitude": (-180, 180), "depth_km": (-10, 800), "magnitude": (-2, 10)}
    for number, row in _rows(path):
        where = f"{path}, row {number}"
        values = {}
        for name, (low, high) in limits.items():
            try:
                values[name] = float(row[name] or "")
            except ValueError:
                raise DataError(f"{where}: {name} is {row[name]!r}; expected a number.") from None
            if not low <= values[name] <= high:
                raise DataError(f"{where}: {name} is {row[name]}; expected {low} to {high}.")
        event_id = row["event_id"] or ""
        if not event_id or event_id in seen:
            raise DataError(
                f"{where}: event_id {event_id!r} is {'repeated' if event_id else 'empty'}; ids must be unique."
            )
        seen.add(event_id)
        events.append(Event(event_id, **values))
    return events


def split_events(events: list[Event]) -> dict[str, list[tuple[Event, Frame]]]:
    """Return the events inside the pocket windows by split, decided by a hash of each event's id."""
    splits: dict[str, list[tuple[Event, Frame]]] = {"train": [], "validation": [], "test": []}
    for event in events:
        frame = frame_of(event)
        if frame is None:
            continue
        share = int.from_bytes(hashlib.sha256(event.event_id.encode()).digest()[:8], "big") / 2**64
        in_test, in_validation = share > 1 - _TEST_SHARE, share > 1 - _TEST_SHARE - _VALIDATION_SHARE
        splits["test" if in_test else "validation" if in_validation else "train"].append((event, frame))
    return splits


def training_events(real: list[tuple[Event, Frame]], count: int, rng: np.random.Generator) -> list[tuple[Event, Frame]]:
    """Return `count` training events: 30 % real, 45 % what-if around real training events, 25 % uniform."""
    made: list[tuple[Event, Frame]] = []
    order = rng.permutation(len(real))
    for index in range(count):
        kind = rng.random()
        event, frame = real[int(order[index % len(real)])]
        if kind < _REAL_SHARE:
            made.append((event, frame))
            continue
        if kind < _REAL_SHARE + _WHAT_IF_SHARE:
            latitude = event.latitude + rng.normal()
            longitude = event.longitude + rng.normal()
            name = "whatif"
        else:
            frame = FRAMES[int(rng.integers(len(FRAMES)))]
            latitude = frame.south + rng.uniform(0, _SPAN_DEGREES)
            longitude = frame.west + rng.uniform(0, _SPAN_DEGREES)
            name = "uniform"
        low, high = _MARGIN_DEGREES, _SPAN_DEGREES - _MARGIN_DEGREES
        latitude = float(np.clip(latitude, frame.south + low, frame.south + high))
        longitude = float(np.clip(longitude, frame.west + low, frame.west + high))
        magnitude = round(float(rng.uniform(5.5, 8.0)), 1)
        made.append(
            (Event(f"{name}-{index}", round(latitude, 3), round(longitude, 3), event.depth_km, magnitude), frame)
        )
    return made

"""Shake maps and the catalogue: the published equation, splits by event, pictures the same to the pixel."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest

from vlm_backbones.errors import DataError
from vlm_backbones.pocket.coast import is_land
from vlm_backbones.pocket.events import FRAMES, Event, frame_around, read_catalogue, split_events, training_events
from vlm_backbones.pocket.shake_maps import draw_shake_map, intensity, max_intensity, quadrant

TOHOKU = Event("tohoku", 38.3, 142.4, 29.0, 7.3)


def test_intensity_equals_the_equation_worked_by_hand() -> None:
    # M 6 at D = 0: R = 14, log10 R = 1.146128, B = 0.
    expected = 12.27 - 1.30 * math.log10(14) - 0.0007070 * 14 - 0.577 * 6 * math.log10(14)
    assert float(intensity(6.0, np.array(0.0))) == pytest.approx(expected, abs=1e-12)
    # M 7 at D = 100: R = sqrt(10196), B = log10(R / 30).
    r = math.sqrt(100**2 + 14**2)
    expected = 12.27 + 2.270 + 0.1304 - 1.30 * math.log10(r) - 0.0007070 * r + 1.95 * math.log10(r / 30)
    expected -= 0.577 * 7 * math.log10(r)
    assert float(intensity(7.0, np.array(100.0))) == pytest.approx(expected, abs=1e-12)


def test_intensity_falls_with_distance_and_stays_on_the_scale() -> None:
    values = intensity(7.5, np.linspace(0, 2000, 500))
    assert (np.diff(values) <= 0).all()
    assert values.min() >= 1
    assert values.max() <= 12


def test_known_places_are_land_or_sea() -> None:
    latitude, longitude = np.array([35.7, 30.0, -33.4, 0.0]), np.array([139.4, -150.0, -70.6, -30.0])
    assert is_land(latitude, longitude).tolist() == [True, False, True, False]


def test_no_event_is_in_two_splits_and_every_test_has_600() -> None:
    splits = split_events(read_catalogue())
    ids = {name: {event.event_id for event, _ in rows} for name, rows in splits.items()}
    assert len(ids["test"]) >= 600
    assert not ids["train"] & ids["test"]
    assert not ids["train"] & ids["validation"]
    assert not ids["validation"] & ids["test"]
    made = training_events(splits["train"], 500, np.random.default_rng(0))
    assert all(
        event.event_id in ids["train"] or event.event_id.startswith(("whatif-", "uniform-")) for event, _ in made
    )


def test_quadrant_and_highest_intensity() -> None:
    assert quadrant(TOHOKU, FRAMES[0]) == "northeast"
    assert quadrant(Event("x", 34.5, 139.0, 10, 6), FRAMES[0]) == "southwest"
    assert max_intensity(TOHOKU) == "VII"  # 7.17 by the equation at R = sqrt(29^2 + 14^2) km


def test_a_window_around_any_event_holds_it_also_at_the_date_line() -> None:
    for place in [(0.0, 179.9), (-17.0, -179.5), (88.0, 10.0), (-89.0, 0.0), (52.0, 178.0)]:
        event = Event(f"at {place}", *place, 10.0, 6.0)
        frame = frame_around(event)
        north, east = frame.offset(*place)
        assert 0 <= north <= 8, place
        assert 0 <= east <= 8, place
        assert draw_shake_map(event, frame).size == (112, 112)


def test_a_map_has_the_same_pixels_as_when_the_tower_was_trained() -> None:
    digest = hashlib.sha256(draw_shake_map(TOHOKU, FRAMES[0]).tobytes()).hexdigest()
    assert digest == "583dce3298040c72c89dbee8ea2b61705c37fd942e475b283e552fdb82482911"


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("a,t,95,10,5,6", "row 2: latitude is 95"),
        ("a,t,x,10,5,6", "row 2: latitude is 'x'"),
        ("a,t,5,10,5,\n", "row 2: magnitude is ''"),
        (",t,5,10,5,6", "event_id '' is empty"),
        ("a,t,5,10,5,6\na,t,5,10,5,6", "row 3: event_id 'a' is repeated"),
    ],
)
def test_a_malformed_catalogue_names_file_and_row(tmp_path: Path, row: str, named: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("event_id,time,latitude,longitude,depth_km,magnitude\n" + row)
    with pytest.raises(DataError, match=r"mine\.csv") as raised:
        read_catalogue(path)
    assert named in str(raised.value)


def test_a_catalogue_without_a_column_names_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("event_id,time,latitude\na,t,5\n")
    with pytest.raises(DataError, match="longitude"):
        read_catalogue(path)

"""Shake maps: the intensity that an earthquake causes, drawn on a real coast with graticule and legend."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vlm_backbones.pocket import pixel_font
from vlm_backbones.pocket.coast import is_land
from vlm_backbones.pocket.events import Event, Frame

__all__ = ["EARTH_RADIUS_KM", "draw_shake_map", "intensity", "max_intensity", "quadrant", "roman"]

EARTH_RADIUS_KM = 6371.0088
IMAGE_PX = 112
_LEFT, _TOP, _RIGHT, _BOTTOM = 16, 10, 110, 94  # plot box in pixels
_MMI_COLOURS = np.array(
    [
        (255, 255, 255), (191, 204, 255), (191, 204, 255), (160, 230, 255), (128, 255, 255),
        (122, 255, 147), (255, 255, 0), (255, 200, 0), (255, 145, 0), (255, 0, 0), (200, 0, 0),
    ],
    dtype=np.float64,
)  # fmt: skip
_SEA_TINT = np.array((150, 175, 205), dtype=np.float64)
_ROMAN = ("0", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")
_INK, _COAST, _GRATICULE = (40, 40, 40), (90, 90, 90), 0.88


def intensity(magnitude: float, distance_km: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median Modified Mercalli intensity at a distance from the source.

    Parameters
    ----------
    magnitude
        Moment magnitude.
    distance_km
        Distance to the rupture in km, any shape; for a point source the hypocentral distance.

    Returns
    -------
    Intensities of the same shape, clipped to 1 to 12.

    Notes
    -----
    The prediction equation for California of Atkinson & Wald (2007), "Did You Feel It?" intensity data:
    a surprisingly good measure of earthquake ground motion, Seismological Research Letters 78(3):
    MMI = 12.27 + 2.270 (M-6) + 0.1304 (M-6)^2 - 1.30 log10 R - 0.0007070 R + 1.95 B - 0.577 M log10 R
    with R = sqrt(D^2 + 14^2) and B = max(0, log10(R / 30)).
    """
    effective_km = np.sqrt(distance_km**2 + 14.0**2)
    log_distance = np.log10(effective_km)
    beyond = np.maximum(0.0, np.log10(effective_km / 30.0))
    scaled = magnitude - 6.0
    mmi = (
        12.27 + 2.270 * scaled + 0.1304 * scaled**2
        - 1.30 * log_distance - 0.0007070 * effective_km + 1.95 * beyond - 0.577 * magnitude * log_distance
    )  # fmt: skip
    return np.clip(mmi, 1.0, 12.0)


def roman(mmi: float) -> str:
    """Return an intensity as a roman numeral, rounded to the nearest."""
    return _ROMAN[int(np.clip(round(mmi), 1, 12))]


def max_intensity(event: Event) -> str:
    """Return the intensity at the epicentre as a roman numeral."""
    return roman(float(intensity(event.magnitude, np.array(max(event.depth_km, 0.0)))))


def quadrant(event: Event, frame: Frame) -> str:
    """Return the part of the map that holds the epicentre: northeast, northwest, southeast or southwest."""
    north, east = frame.offset(event.latitude, event.longitude)
    half = (frame.north - frame.south) / 2
    return ("north" if north >= half else "south") + ("east" if east >= half else "west")


def _grid(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    height, width = _BOTTOM - _TOP, _RIGHT - _LEFT
    latitudes = frame.north - (np.arange(height) + 0.5) / height * (frame.north - frame.south)
    longitudes = frame.west + (np.arange(width) + 0.5) / width * (frame.east - frame.west)
    grid = np.meshgrid(latitudes, longitudes, indexing="ij")
    return grid[0], grid[1]  # each (height, width)


def _distance_km(event: Event, latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return hypocentral distances: great circle on a sphere, then depth by Pythagoras."""
    phi_1, phi_2 = math.radians(event.latitude), np.radians(latitude)
    half = (
        np.sin((phi_2 - phi_1) / 2) ** 2
        + math.cos(phi_1) * np.cos(phi_2) * np.sin(np.radians(longitude - event.longitude) / 2) ** 2
    )
    surface_km = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0)))
    hypocentral_km: NDArray[np.float64] = np.sqrt(surface_km**2 + max(event.depth_km, 0.0) ** 2)
    return hypocentral_km


def _colours(mmi: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.clip(np.floor(mmi).astype(int), 0, len(_MMI_COLOURS) - 2)
    share = np.clip(mmi - low, 0.0, 1.0)[..., None]
    colours: NDArray[np.float64] = _MMI_COLOURS[low] * (1 - share) + _MMI_COLOURS[low + 1] * share
    return colours


def _wrap(longitude: float) -> int:
    return round((longitude + 180.0) % 360.0 - 180.0)


def draw_shake_map(event: Event, frame: Frame) -> Image.Image:
    """Render the shake map of an event in a window as an RGB picture of 112 x 112 pixels.

    Title (magnitude and depth in km), intensities in the USGS palette over land and sea, coastline,
    graticule every two degrees with tick labels, a star at the epicentre, and a legend of intensities.
    """
    latitude, longitude = _grid(frame)
    height, width = latitude.shape
    land = is_land(latitude, longitude)
    paint = _colours(intensity(event.magnitude, _distance_km(event, latitude, longitude)))
    paint = np.where(land[..., None], paint, paint * 0.55 + _SEA_TINT * 0.45)
    edge = (land != np.roll(land, 1, 0)) | (land != np.roll(land, 1, 1))
    edge[0], edge[:, 0] = False, False
    paint[edge] = _COAST
    span = frame.north - frame.south
    rows = [round(step / span * height) for step in range(2, int(span), 2)]
    columns = [round(step / span * width) for step in range(2, int(span), 2)]
    paint[rows] *= _GRATICULE
    paint[:, columns] *= _GRATICULE
    canvas = np.full((IMAGE_PX, IMAGE_PX, 3), 255, dtype=np.uint8)
    canvas[_TOP:_BOTTOM, _LEFT:_RIGHT] = np.clip(np.round(paint), 0, 255).astype(np.uint8)
    _write_labels(canvas, event, frame, rows, columns)
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    draw.rectangle([_LEFT - 1, _TOP - 1, _RIGHT, _BOTTOM], outline=_INK)
    north, east = frame.offset(event.latitude, event.longitude)
    _draw_star(draw, _LEFT + east / span * width, _BOTTOM - north / span * height)
    return image


def _write_labels(canvas: NDArray[np.uint8], event: Event, frame: Frame, rows: list[int], columns: list[int]) -> None:
    pixel_font.write(canvas, _LEFT, 2, f"M{event.magnitude:.1f}  {max(event.depth_km, 0.0):.0f} KM", _INK)
    for step, row in zip(range(2, 8, 2), rows, strict=True):
        text = str(round(frame.north - step))
        pixel_font.write(canvas, _LEFT - 2 - pixel_font.width_px(text), _TOP + row - 2, text, _INK)
    for step, column in zip(range(2, 8, 2), columns, strict=True):
        text = str(_wrap(frame.west + step))
        pixel_font.write(canvas, _LEFT + column - pixel_font.width_px(text) // 2, _BOTTOM + 2, text, _INK)
    for level in range(1, 11):
        left = _LEFT + (level - 1) * 9
        canvas[_BOTTOM + 9 : _BOTTOM + 17, left : left + 9] = _MMI_COLOURS[level].astype(np.uint8)
        text = _ROMAN[level] if level % 2 else ""
        pixel_font.write(canvas, left + (9 - pixel_font.width_px(text)) // 2, _BOTTOM + 11, text, _INK)


def _draw_star(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    points = []
    for step in range(10):
        radius, angle = (5.0 if step % 2 == 0 else 2.0), math.radians(-90 + 36 * step)
        points.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    draw.polygon(points, fill=(20, 20, 20), outline=(255, 255, 255))

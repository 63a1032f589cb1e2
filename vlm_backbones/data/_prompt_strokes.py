"""The geometry of the eight visual prompts: from a region and a random generator to strokes that Pillow draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.errors import DataError

Points = NDArray[np.float64]
Box = tuple[float, float, float, float]

_ANCHOR_PX = 336
_LARGEST_ANGLE_DEGREES = 150
_MASK_TRIES = 50
_POINT_TRIES = 10
_TRIANGLE_TRIES = 1000


@dataclass(frozen=True)
class Stroke:
    """One call of `PIL.ImageDraw`: points (n, 2) in pixels, `width` in pixels, 0 where the inside is filled."""

    kind: Literal["rectangle", "ellipse", "line", "polygon"]
    points: Points
    width: int
    curved: bool = False


@dataclass(frozen=True)
class Pen:
    """What the drawing of one shape depends on beside its region.

    `scale` is max(width, height) / 336 of the image; `width` a stroke width at 336 pixels that replaces the drawn one;
    `constant` the fixed style of evaluation.
    """

    scale: float
    rng: np.random.Generator
    width: int | None = None
    constant: bool = False

    def size(self, low: int, high: int, constant: int | None = None) -> int:
        """Return a size in pixels, at least 1, drawn between two sizes at 336 pixels, both included."""
        if self.constant and constant is not None:
            return max(int(constant * self.scale), 1)
        drawn = self.rng.integers(int(low * self.scale), int(high * self.scale), endpoint=True)
        return max(int(drawn), 1)

    def stroke(self, low: int, high: int, constant: int | None = None) -> int:
        """Return a stroke width in pixels; a given width goes before the drawn one."""
        return self.size(low, high, constant) if self.width is None else max(int(self.width * self.scale), 1)


def scale_of(size: tuple[int, int]) -> float:
    """Return by how much sizes at 336 pixels grow in an image of (width, height) pixels."""
    return max(size) / _ANCHOR_PX


def strokes_of(shape: str, box: Box, polygons: Sequence[Points], pen: Pen) -> tuple[Stroke, ...]:
    """Return the strokes of one shape around a region; polygons are (n, 2), none where the region is a box."""
    return tuple(_SHAPES[shape](box, polygons, pen))


def _rectangle(box: Box, polygons: Sequence[Points], pen: Pen) -> list[Stroke]:
    return [Stroke("rectangle", np.reshape(box, (2, 2)), pen.stroke(2, 8, constant=3))]


def _ellipse(box: Box, polygons: Sequence[Points], pen: Pen) -> list[Stroke]:
    width = pen.stroke(2, 8)
    corners = np.reshape(bounds(polygons) if polygons else box, (2, 2))
    centre = corners.mean(axis=0)
    half = (corners[1] - corners[0]) / 2 * pen.rng.uniform(1.0, 1.5)
    return [Stroke("ellipse", np.stack([centre - half, centre + half]), width)]


def _arrow(box: Box, polygons: Sequence[Points], pen: Pen) -> list[Stroke]:
    """Return a shaft away from the tip and a head of two barbs at 60 degrees to it."""
    rng, width = pen.rng, pen.stroke(1, 6)
    corners = np.reshape(box, (2, 2))
    extent = corners[1] - corners[0]
    shortest, longest = 0.8 * float(extent.min()), max(int(50 * pen.scale), 1)
    length = shortest + rng.random() * (longest - shortest)  # also where the region is larger than the longest arrow
    angle = rng.uniform(0.0, 2 * math.pi)
    tip = corners.mean(axis=0) + rng.uniform(-0.25, 0.25, 2) * extent
    head = max(rng.uniform(0.2, 0.5) * length, int(6 * pen.scale))
    tail = tip + (length - head) * _direction(angle)
    shaft = [tip, tail]
    if rng.random() < 0.5:
        shaft.insert(1, (tip + tail) / 2 + rng.uniform(-5.0, 5.0, 2) * int(pen.scale))
    barbs = np.stack([tip + head * _direction(angle + turn) for turn in (math.pi / 3, -math.pi / 3)])
    outline = np.stack([barbs[0], tip, barbs[1]])
    filled = rng.random() < 0.5
    return [
        Stroke("line", np.stack(shaft), width),
        Stroke("polygon" if filled else "line", outline, 0 if filled else width),
    ]


def _direction(angle: float) -> Points:
    return np.array([math.cos(angle), math.sin(angle)])


def _triangle(box: Box, polygons: Sequence[Points], pen: Pen) -> list[Stroke]:
    width = pen.stroke(2, 8)
    for _ in range(_TRIANGLE_TRIES):
        corners = points_inside(box, polygons, 3, pen.rng)
        if _largest_angle(corners) <= _LARGEST_ANGLE_DEGREES:
            return [Stroke("line", corners[[0, 1, 2, 0]], width, curved=True)]
    raise DataError(f"no triangle fits into the region {_shown(box)}: it has no area. Mend its box or mask.")


def _largest_angle(corners: Points) -> float:
    """Return the largest angle of a triangle in degrees, by the cosine rule; 180 where two corners coincide."""
    sides = np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1)
    first, second = sides, np.roll(sides, -1)
    product = 2 * first * second
    if not product.all():
        return 180.0
    cosine = (first**2 + second**2 - np.roll(sides, -2) ** 2) / product
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))).max())


def _point(box: Box, polygons: Sequence[Points], pen: Pen) -> list[Stroke]:
    """Return a filled dot near the middle of one mask."""
    if not polygons:
        raise DataError(f"a point needs a mask, and the region {_shown(box)} has none. Give a segmentation.")
    rng, mask = pen.rng, polygons[int(pen.rng.integers(len(polygons)))]
    radius = pen.size(5, 20, constant=8)
    aspect = 1.0 if pen.constant or rng.random() < 0.5 else rng.uniform(0.5, 2.0)
    corners = np.reshape(bounds([mask]), (2, 2))
    spread = np.sqrt((corners[1] - corners[0]) / 8)
    tried = rng.normal(corners.mean(axis=0), spread, (_POINT_TRIES, 2))
    centre = _first_inside(tried, [mask])
    half = np.array([radius * aspect, radius / aspect])
    return [Stroke("ellipse", np.stack([centre - half, centre + half]), 0)]


def _scribble(box: Box, polygons: Sequence[Points], pen: Pen) -> list[Stroke]:
    """Return a cubic Bezier curve of four points in one mask, else in the box."""
    width = pen.stroke(2, 12)
    mask = [polygons[int(pen.rng.integers(len(polygons)))]] if polygons else []
    control = points_inside(box, mask, 4, pen.rng)
    time = np.linspace(0.0, 1.0, max(int(1000 * pen.scale), 2))[:, None]
    weights = np.hstack([(1 - time) ** 3, 3 * (1 - time) ** 2 * time, 3 * (1 - time) * time**2, time**3])
    return [Stroke("line", weights @ control, width)]  # (samples, 4) @ (4, 2)


def _mask_contour(box: Box, polygons: Sequence[Points], pen: Pen) -> list[Stroke]:
    width = pen.stroke(1, 2)
    shifts = np.arange(-width, width + 1)
    return [
        Stroke("polygon", outline + np.array([dx, dy]), 1)
        for outline in polygons or [corners_of(box)]
        for dx in shifts
        for dy in shifts
    ]


def _mask(box: Box, polygons: Sequence[Points], pen: Pen) -> list[Stroke]:
    return [Stroke("polygon", outline, 0) for outline in polygons or [corners_of(box)]]


_SHAPES: dict[str, Callable[[Box, Sequence[Points], Pen], list[Stroke]]] = {
    "rectangle": _rectangle,
    "ellipse": _ellipse,
    "triangle": _triangle,
    "point": _point,
    "scribble": _scribble,
    "mask contour": _mask_contour,
    "mask": _mask,
    "arrow": _arrow,
}


def bounds(polygons: Sequence[Points]) -> Box:
    """Return x1, y1, x2, y2 around all polygons."""
    points = np.concatenate(list(polygons))
    (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
    return float(x1), float(y1), float(x2), float(y2)


def corners_of(box: Box) -> Points:
    """Return the four corners of a box, (4, 2)."""
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x1, y2], [x2, y2], [x2, y1]], dtype=np.float64)


def points_inside(box: Box, polygons: Sequence[Points], count: int, rng: np.random.Generator) -> Points:
    """Return uniform points in the union of the polygons, else in the box; (count, 2).

    Fifty draws in the bounds of the polygons a point; where none falls inside, one more anywhere in the bounds counts.
    """
    if not polygons:
        return rng.uniform(box[:2], box[2:], (count, 2))
    low, high = np.reshape(bounds(polygons), (2, 2))
    drawn = rng.uniform(low, high, (count, _MASK_TRIES + 1, 2))
    return np.stack([_first_inside(tried, polygons) for tried in drawn])


def _first_inside(tried: Points, polygons: Sequence[Points]) -> Points:
    """Return the first of the points (n, 2) that lies in a polygon, else the last."""
    found = np.flatnonzero(is_inside(tried, polygons))
    return np.asarray(tried[found[0] if found.size else -1])


def is_inside(points: Points, polygons: Sequence[Points]) -> NDArray[np.bool_]:
    """Return for points (n, 2) whether they lie in at least one polygon, by the even-odd rule; (n,)."""
    x, y = points[:, :1], points[:, 1:]
    inside = np.zeros(len(points), dtype=bool)
    for polygon in polygons:
        ahead = np.roll(polygon, -1, axis=0)
        crosses = (polygon[:, 1] > y) != (ahead[:, 1] > y)  # (points, edges)
        rise = np.where(ahead[:, 1] == polygon[:, 1], 1.0, ahead[:, 1] - polygon[:, 1])
        at = polygon[:, 0] + (y - polygon[:, 1]) * (ahead[:, 0] - polygon[:, 0]) / rise
        inside |= (crosses & (x < at)).sum(axis=1) % 2 == 1
    return inside


def _shown(box: Box) -> str:
    return ", ".join(f"{value:g}" for value in box)

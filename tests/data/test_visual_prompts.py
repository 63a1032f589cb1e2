"""The eight visual prompts: sizes, colours and opacity to the pixel, drawn again from the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from vlm_backbones.data import _prompt_strokes as strokes
from vlm_backbones.data.visual_prompts import COLORS, SHAPES, Color, Region, VisualPrompt, draw_prompts, sample_prompt
from vlm_backbones.data.visual_prompts import words_of as said
from vlm_backbones.errors import ConfigError, DataError

RED = Color((255, 0, 0), "red")
BOX = (50.0, 60.0, 200.0, 220.0)
SQUARE = (60.0, 70.0, 190.0, 70.0, 190.0, 210.0, 60.0, 210.0)
MASKED = Region(BOX, (SQUARE,))
SIZES = {(336, 336): 0, (640, 480): 1, (1024, 768): 2}


def prompt(shape: str, seed: int = 0, size: tuple[int, int] = (336, 336), **given: object) -> VisualPrompt:
    return sample_prompt(MASKED, size, np.random.default_rng(seed), shape=shape, color=RED, **given)  # type: ignore[arg-type]


def drawn(prompts: list[VisualPrompt], ground: str = "black", size: tuple[int, int] = (336, 336)) -> np.ndarray:
    return np.asarray(draw_prompts(Image.new("RGB", size, ground), prompts)).astype(int)


def widths(shape: str, size: tuple[int, int], **given: object) -> set[int]:
    return {prompt(shape, seed, size, **given).strokes[0].width for seed in range(600)}


# The table "Numbers for tests": widths of 336 x 336, 640 x 480, 1024 x 768.
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("shape", "low", "high"),
    [
        ("rectangle", (2, 3, 6), (8, 15, 24)),
        ("ellipse", (2, 3, 6), (8, 15, 24)),
        ("triangle", (2, 3, 6), (8, 15, 24)),
        ("arrow", (1, 1, 3), (6, 11, 18)),
        ("scribble", (2, 3, 6), (12, 22, 36)),
    ],
)
def test_stroke_widths_are_uniform_between_the_published_ends(
    shape: str, low: tuple[int, ...], high: tuple[int, ...], size: tuple[int, int]
) -> None:
    assert widths(shape, size) == set(range(low[SIZES[size]], high[SIZES[size]] + 1))


@pytest.mark.parametrize(("size", "expected"), [*zip(SIZES, (3, 5, 9), strict=True)])
def test_the_constant_rectangle_of_evaluation(size: tuple[int, int], expected: int) -> None:
    assert widths("rectangle", size, constant=True) == {expected}
    assert widths("scribble", size, width=3) == {expected}  # the demo's explicit width is int(width * s)


@pytest.mark.parametrize(("size", "expected"), [*zip(SIZES, (1000, 1904, 3047), strict=True)])
def test_a_scribble_has_a_thousand_samples_at_336(size: tuple[int, int], expected: int) -> None:
    assert prompt("scribble", size=size).strokes[0].points.shape == (expected, 2)


@pytest.mark.parametrize(("size", "low", "high"), [((336, 336), 5, 20), ((640, 480), 9, 38), ((1024, 768), 15, 60)])
def test_a_points_radius(size: tuple[int, int], low: int, high: int) -> None:
    radii = set()
    for seed in range(1500):
        rx, ry = np.ptp(prompt("point", seed, size).strokes[0].points, axis=0) / 2
        radii.add(round(math.sqrt(rx * ry), 6))  # rx = r a and ry = r / a
        assert 0.25 - 1e-9 <= rx / ry <= 4 + 1e-9
    assert radii == set(map(float, range(low, high + 1)))
    constant = np.ptp(prompt("point", size=size, constant=True).strokes[0].points, axis=0) / 2
    assert constant == pytest.approx([{5: 8, 9: 15, 15: 24}[low]] * 2)


@pytest.mark.parametrize(("size", "low", "high"), [((336, 336), 1, 2), ((640, 480), 1, 3), ((1024, 768), 3, 6)])
def test_a_contour_is_drawn_at_every_shift(size: tuple[int, int], low: int, high: int) -> None:
    counts = {len(prompt("mask contour", seed, size).strokes) for seed in range(200)}
    assert counts == {(2 * width + 1) ** 2 for width in range(low, high + 1)}


def test_the_arrows_head_and_length() -> None:
    small = Region((100.0, 100.0, 110.0, 110.0))  # 0.8 * 10 = 8 px up to int(50 s) = 50 px; heads of at least 6
    for seed in range(300):
        made = sample_prompt(small, (336, 336), np.random.default_rng(seed), shape="arrow", color=RED)
        shaft, head = made.strokes
        barb, tip, other = head.points
        side = float(np.linalg.norm(barb - tip))
        length = float(np.linalg.norm(shaft.points[-1] - tip)) + side
        assert side >= 6 - 1e-9
        assert 8 - 1e-9 <= length <= 50 + 1e-9 or side == pytest.approx(6)
        assert np.abs(tip - 105).max() <= 2.5  # a quarter of the box around its middle
        # Two barbs at 60 degrees to the shaft make an equilateral triangle.
        assert np.linalg.norm(barb - other) == pytest.approx(side * math.sqrt(3))
        assert (head.kind, head.width) in {("polygon", 0), ("line", shaft.width)}


def test_a_red_rectangle_to_the_pixel() -> None:
    """Alpha 128 is (128, 0, 0) over black and (255, 127, 127) over white; strokes grow inward, both ends included."""
    made = sample_prompt(
        Region(BOX), (336, 336), np.random.default_rng(0), shape="rectangle", color=RED, alpha=128, constant=True
    )
    row = drawn([made])[100]
    assert np.flatnonzero(row.any(axis=1)).tolist() == [50, 51, 52, 198, 199, 200]
    assert row[50].tolist() == [128, 0, 0]
    assert drawn([made], "white")[100, 50].tolist() == [255, 127, 127]
    # A second prompt is blended over the first: 128 + (255 - 128) * 128 / 255 = 191.7.
    assert drawn([made, made])[100, 50, 0] in {191, 192}


def test_crossing_strokes_of_one_prompt_add_no_opacity() -> None:
    for shape in SHAPES:
        made = prompt(shape, alpha=128)
        assert set(np.unique(drawn([made])[..., 0])) == {0, 128}, shape


def test_opacity_ranges() -> None:
    alphas = [prompt("ellipse", seed).alpha for seed in range(3000)]
    masks = [prompt("mask", seed).alpha for seed in range(3000)]
    assert (min(alphas), max(alphas)) == (96, 255)
    assert (min(masks), max(masks)) == (48, 128)


@given(seed=st.integers(0, 2**32), shape=st.sampled_from(sorted(SHAPES)))
def test_the_same_seed_draws_the_same_pixels(seed: int, shape: str) -> None:
    first, second = prompt(shape, seed), prompt(shape, seed)
    assert (drawn([first]) == drawn([second])).all()
    assert (first.shape, first.color, first.alpha) == (second.shape, second.color, second.alpha)


def test_a_triangle_has_no_flat_angle_and_lies_in_the_mask() -> None:
    for seed in range(200):
        corners = prompt("triangle", seed).strokes[0].points[:3]
        assert ((corners >= (60, 70)) & (corners <= (190, 210))).all()
        for place in range(3):
            a, b = corners[place - 1] - corners[place], corners[(place + 1) % 3] - corners[place]
            cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
            assert math.degrees(math.acos(np.clip(cosine, -1, 1))) <= 150 + 1e-6


def test_an_ellipse_surrounds_the_union_of_the_masks() -> None:
    other = (10.0, 20.0, 30.0, 20.0, 30.0, 40.0)
    made = sample_prompt(Region(BOX, (SQUARE, other)), (336, 336), np.random.default_rng(1), shape="ellipse", color=RED)
    (x1, y1), (x2, y2) = made.strokes[0].points
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((100, 115))  # middle of 10..190 and 20..210
    assert 1 <= (x2 - x1) / 180 <= 1.5
    assert (x2 - x1) / 180 == pytest.approx((y2 - y1) / 190)


def test_inside_is_even_odd_as_pillow_fills() -> None:
    star = np.array([[168, 20], [250, 300], [30, 120], [306, 120], [86, 300]], dtype=float)
    grid = np.stack(np.meshgrid(np.arange(336), np.arange(336)), axis=-1).reshape(-1, 2) + 0.5
    found = strokes.is_inside(grid, [star[:3]]).reshape(336, 336)
    canvas = Image.new("L", (336, 336))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in star[:3]], fill=1)
    assert (found != (np.asarray(canvas) > 0)).mean() < 0.005  # Pillow also paints the outline's pixels
    assert not strokes.is_inside(np.array([[168.0, 200.0]]), [star]).any()  # the hole of a pentagram


def test_words() -> None:
    assert [said(shape, RED) for shape in SHAPES] == [
        "within the red rectangle", "within the red ellipse", "with the red triangle", "at the red point",
        "with the red scribble", "with the red mask contour", "with the red mask", "pointed to by the red arrow",
    ]  # fmt: skip
    assert len(COLORS) == 9


def test_bad_regions_and_prompts_are_named() -> None:
    with pytest.raises(DataError, match="ends before it starts"):
        Region((10, 0, 5, 5))
    with pytest.raises(DataError, match="not four finite numbers"):
        Region((math.nan, 0, 5, 5))
    with pytest.raises(DataError, match="at least three points"):
        Region((0, 0, 5, 5), ((1, 2, 3, 4),))
    for box, mask in (((2, 3, 20, 7e15), ()), ((0, 0, 5, 5), ((1, 2, 3, -2e5, 5, 6),))):  # drawing would never end
        with pytest.raises(DataError, match="more than 100000 pixels away"):
            Region(box, mask)
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="a point needs a mask"):
        sample_prompt(Region(BOX), (336, 336), rng, shape="point", color=RED)
    with pytest.raises(DataError, match="it has no area"):
        sample_prompt(Region((5, 5, 5, 5)), (336, 336), rng, shape="triangle", color=RED)
    with pytest.raises(ConfigError, match="Did you mean 'arrow'"):
        sample_prompt(Region(BOX), (336, 336), rng, shape="arow", color=RED)
    with pytest.raises(ConfigError, match="outside 0 to 255"):
        sample_prompt(Region(BOX), (336, 336), rng, shape="arrow", color=RED, alpha=300)

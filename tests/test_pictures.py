"""Pictures of odd kinds: what a viewer shows, the same in training and evaluation, or a clear error."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip import CLIPImageProcessorPil

from vlm_backbones.data.conversations import ImageSource
from vlm_backbones.errors import DataError
from vlm_backbones.model_wrappers._record import image_key
from vlm_backbones.model_wrappers._requests import Job, _images
from vlm_backbones.pictures import MAX_SIDE_PX, open_rgb, to_rgb
from vlm_backbones.tasks.common import doc_to_visual
from vlm_backbones.vision.preprocessing import padding_processor, preprocess_images


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def gradient(mode: str = "RGB") -> Image.Image:
    ramp = np.linspace(0, 255, 24 * 16, dtype=np.uint8).reshape(16, 24)
    return Image.merge("RGB", [Image.fromarray(layer) for layer in (ramp, ramp[::-1], ramp[:, ::-1])]).convert(mode)


def half_transparent(mode: str) -> Image.Image:
    """Black; the left half transparent."""
    picture = Image.new("RGBA" if mode != "LA" else "LA", (4, 2), (0, 0, 0, 255) if mode != "LA" else (0, 255))
    picture.paste((0, 0, 0, 0) if mode != "LA" else (0, 0), (0, 0, 2, 2))
    return picture


def palette_with_transparency() -> bytes:
    picture = Image.new("P", (4, 2), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.paste(0, (0, 0, 2, 2))
    return encoded(picture, "PNG", transparency=0)


def test_cmyk_keeps_its_colours() -> None:
    rgb = open_rgb(encoded(gradient().convert("CMYK"), "JPEG", quality=100, subsampling=0))
    assert np.abs(np.asarray(rgb).astype(int) - np.asarray(gradient()).astype(int)).max() <= 12  # JPEG


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_cut_off(kind: str) -> None:
    values = np.array([[0, 255, 257, 32_896, 65_535]], dtype=np.uint16)
    rgb = open_rgb(encoded(Image.fromarray(values), kind))
    # round(value / 257): Pillow's own conversion gives 255 for the last four
    assert np.asarray(rgb)[0, :, 0].tolist() == [0, 1, 1, 128, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_lie_on_white(mode: str) -> None:
    rgb = np.asarray(open_rgb(encoded(half_transparent(mode), "PNG")))
    assert rgb[0, 0].tolist() == [255, 255, 255]
    assert rgb[0, 3].tolist() == [0, 0, 0]


def test_large_pictures_of_odd_kinds_are_converted_in_parts() -> None:
    """Longer than a part, with another value in each row."""
    rows = np.arange(1_300, dtype=np.uint16)[:, None] * np.ones((1, 700), dtype=np.uint16)
    deep, wanted = rows * 50, np.round(rows * 50 / 257)
    swapped = Image.frombytes("I;16B", (700, 1_300), deep.astype(">u2").tobytes())
    for picture in (Image.fromarray(deep), Image.fromarray(deep.astype(np.int32)), swapped):
        assert np.array_equal(np.asarray(to_rgb(picture))[..., 1], wanted)
    faint = np.full((1_300, 700, 4), 0, dtype=np.uint8)
    faint[..., 3] = rows % 256
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(faint)))[..., 0], 255 - rows % 256)


def test_a_palette_with_a_transparent_colour_lies_on_white() -> None:
    rgb = np.asarray(open_rgb(palette_with_transparency()))
    assert rgb[0, 0].tolist() == [255, 255, 255]
    assert rgb[0, 3].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.n_frames == 2
        picture.seek(1)
        assert to_rgb(picture).getpixel((3, 3)) == (255, 0, 0)
    assert open_rgb(data).getpixel((3, 3)) == (255, 0, 0)


def test_a_picture_turned_by_exif_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned 90 degrees clockwise
    rgb = open_rgb(encoded(gradient(), "PNG", exif=exif))
    assert np.array_equal(np.asarray(rgb), np.rot90(np.asarray(gradient()), -1))
    assert to_rgb(rgb) is rgb  # not turned twice


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV"])
def test_modes_that_pillow_converts_are_left_to_it(mode: str) -> None:
    picture = gradient(mode)
    assert np.array_equal(np.asarray(to_rgb(picture)), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (20, 1), (3, 3), (3, 50), (50, 3), (4, 1)])
def test_tiny_and_thin_pictures_are_preprocessed(size: tuple[int, int], originals: ModuleType) -> None:
    """A side of 1 or 3 pixels is not taken for the colours."""
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    processor = padding_processor(CLIPImageProcessorPil(), 28)
    square = originals.expand2square(picture, (122, 116, 104)).resize((28, 28), Image.Resampling.BICUBIC)
    wanted = (np.asarray(square) / 255 - processor.image_mean) / processor.image_std
    found = preprocess_images(processor, [picture])[0].numpy()
    assert np.allclose(found, wanted.transpose(2, 0, 1), atol=1e-5)


def test_too_large_pictures_are_refused_by_size() -> None:
    with pytest.raises(DataError, match="is 20000x2 pixels: shrink it to 13377 a side"):
        open_rgb(encoded(Image.new("L", (20_000, 2)), "PNG"))
    with pytest.raises(DataError, match=r"too large .* shrink it to 13377 pixels a side"):
        open_rgb(encoded(Image.new("1", (20_000, 20_000)), "PNG"))
    assert MAX_SIDE_PX**2 <= 2 * (1024 * 1024 * 1024 // 4 // 3) < (MAX_SIDE_PX + 1) ** 2  # Pillow's limit
    assert open_rgb(encoded(Image.new("L", (MAX_SIDE_PX, 2)), "PNG")).size == (MAX_SIDE_PX, 2)


def test_what_has_no_colours_is_refused() -> None:
    with pytest.raises(DataError, match="floating-point"):
        to_rgb(Image.fromarray(np.zeros((2, 2), dtype=np.float32)))
    with pytest.raises(DataError, match="whole numbers from 0 to 70000"):
        to_rgb(Image.fromarray(np.array([[0, 70_000]], dtype=np.int32)))
    with pytest.raises(DataError, match="corrupt"):
        open_rgb(b"no picture")
    data = encoded(Image.effect_noise((60, 60), 90), "PNG")
    with pytest.raises(DataError, match="corrupt"):
        open_rgb(data[: len(data) // 2])


ODD = {
    "cmyk": lambda: encoded(gradient().convert("CMYK"), "JPEG"),
    "16-bit": lambda: encoded(Image.fromarray(np.full((9, 7), 40_000, np.uint16)), "PNG"),
    "palette": palette_with_transparency,
    "grey and alpha": lambda: encoded(half_transparent("LA"), "PNG"),
    "animated": lambda: encoded(
        Image.new("RGB", (6, 6), "red"), "GIF", save_all=True, append_images=[Image.new("RGB", (6, 6), "blue")]
    ),
    "turned": lambda: encoded(gradient(), "JPEG", exif=_turned()),
    "1x1": lambda: encoded(Image.new("RGB", (1, 1), "green"), "PNG"),
}


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 8
    return exif


@pytest.mark.parametrize("kind", ODD)
def test_training_and_evaluation_see_the_same_pixels(kind: str, tmp_path: Path) -> None:
    """Through the paths that both really take: a training row's source, and a dataset's decoded cell."""
    import datasets

    data = ODD[kind]()
    trained = ImageSource("row 1", data=data).open()
    cell = {"bytes": data, "path": None}
    table = datasets.Dataset.from_list([{"image": cell}]).cast_column("image", datasets.Image())
    table.save_to_disk(str(tmp_path / "data"))
    row = datasets.load_from_disk(str(tmp_path / "data"))[0]
    job = Job(0, "?", "vqa_scene", "test", 0, doc_to_visual, "{}")
    (asked,) = _images(job, row)
    assert asked.mode == trained.mode == "RGB"
    assert np.array_equal(np.asarray(asked), np.asarray(trained))
    raw = Job(0, "?", "other", "test", 0, lambda doc: [doc["image"]], "{}")  # a task that converts nothing
    assert image_key(_images(raw, row)) == image_key([trained])


def test_a_bad_picture_names_its_row() -> None:
    with pytest.raises(DataError, match=r"data\.json, row 7: the image is 20000x1 pixels"):
        ImageSource("data.json, row 7", data=encoded(Image.new("L", (20_000, 1)), "PNG")).open()

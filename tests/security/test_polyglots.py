"""Of the images in a report only the pixels are those of the logs."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from PIL import Image

from vlm_backbones.analysis.report.media import Media

PAYLOAD = b"<script>window.hacked = 1</script>PAYLOAD"


def spoilt_webp(path: Path) -> bytes:
    """Write an image that holds a script in its EXIF, its XMP, its colour profile, and after its end."""
    exif = Image.Exif()
    exif[0x010E] = PAYLOAD.decode()  # ImageDescription
    picture = Image.new("RGB", (40, 30), (200, 30, 60))
    picture.save(path, "WEBP", exif=exif, xmp=PAYLOAD, icc_profile=PAYLOAD * 4, lossless=True)
    path.write_bytes(path.read_bytes() + PAYLOAD)
    return path.read_bytes()


@pytest.mark.parametrize("inline", [False, True])
def test_nothing_but_pixels_reaches_the_report(tmp_path: Path, inline: bool) -> None:
    folder, out = tmp_path / "media", tmp_path / "out"
    folder.mkdir()
    original = spoilt_webp(folder / "abc.webp")
    assert original.count(b"PAYLOAD") >= 4
    media = Media([folder], out, inline=inline)
    assert media.place("abc") == [0, "abc"]
    if inline:
        written = base64.b64decode(media.inlined["image-0-abc"].removeprefix("data:image/webp;base64,"))
        (tmp_path / "inline.webp").write_bytes(written)
    else:
        written = (out / "report_data" / "media" / "abc.webp").read_bytes()
    assert b"PAYLOAD" not in written
    assert b"script" not in written
    path = tmp_path / "inline.webp" if inline else out / "report_data" / "media" / "abc.webp"
    with Image.open(path) as picture:
        assert picture.format == "WEBP"
        assert picture.size == (40, 30)
        assert not picture.getexif()
        assert {"exif", "xmp", "icc_profile"}.isdisjoint(picture.info)
        red, green, blue = picture.convert("RGB").getpixel((20, 15))
    assert (abs(red - 200) < 12, abs(green - 30) < 12, abs(blue - 60) < 12) == (True, True, True)


def test_a_page_that_calls_itself_an_image_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "abc.webp").write_bytes(b"<html>" + PAYLOAD)
    media = Media([folder], tmp_path / "out")
    assert media.place("abc") is None
    assert not list((tmp_path / "out").rglob("*"))

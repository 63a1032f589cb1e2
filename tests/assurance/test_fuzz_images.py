"""Picture files: damaged, cut off, of another kind than their ending, or far larger than they look."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from fuzzing import fuzz, lawful
from PIL import Image
from spoiling import among, any_of, spoilt_bytes

from vlm_backbones.data._task_folders import image_of
from vlm_backbones.errors import DataError
from vlm_backbones.pictures import FORMATS, MAX_SIDE_PX, open_rgb
from vlm_backbones.tasks.region_common import doc_to_visual

MODES = {"PNG": ("RGB", "RGBA", "P", "1", "L", "LA", "I;16"), "JPEG": ("RGB", "L", "CMYK"), "GIF": ("P",),
         "WEBP": ("RGB", "RGBA"), "BMP": ("RGB", "1"), "TIFF": ("RGB", "F", "I;16", "CMYK", "LAB"), "PPM": ("RGB", "L"),
         "TGA": ("RGB",), "ICO": ("RGBA",), "PCX": ("L",), "JPEG2000": ("RGB",), "SGI": ("L",)}  # fmt: skip


def encoded(kind: str, mode: str, *, frames: int = 1) -> bytes:
    stream = io.BytesIO()
    picture = Image.new(mode, (24, 17))
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"save_all": True, "append_images": [picture.copy()] * (frames - 1)} if frames > 1 else {}
    with_exif = {"exif": exif} if kind in {"PNG", "JPEG", "WEBP", "TIFF"} and mode in {"RGB", "L"} else {}
    picture.save(stream, kind, **more, **with_exif)  # type: ignore[arg-type]
    return stream.getvalue()


GOOD = [encoded(kind, mode) for kind, modes in MODES.items() for mode in modes] + [encoded("GIF", "P", frames=3)]


def png_of(width: int, height: int, packed: bytes = b"", *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG whose header says what it likes."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


ODD = [
    b"", b"\0", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/tmp/x) (w) file\n",
    b"\xff\xd8\xff\xe0", b"RIFF\xff\xff\xff\xffWEBPVP8 ", b"BM" + b"\xff" * 60, b"P6 99999 99999 255\n",
    png_of(0, 0), png_of(2**31 - 1, 1), png_of(20_000, 20_000), png_of(9000, 9000),
    png_of(100, 100, zlib.compress(b"\0" * 2**22)),
    png_of(4, 4, b"", (b"zTXt", b"a\0\0" + zlib.compress(b"a" * 2**26))),
    png_of(4, 4, b"", (b"iCCP", b"a\0\0" + zlib.compress(b"a" * 2**26))),
]  # fmt: skip


@fuzz(
    data=any_of(spoilt_bytes(among(GOOD)), spoilt_bytes(among(ODD))),
    ending=among(["png", "jpg", "gif"]),
)
def test_pictures(out: Path, data: bytes, ending: str) -> None:
    file = out / f"picture.{ending}"
    file.write_bytes(data)
    for source in (data, file):
        with lawful(out):
            picture = open_rgb(source)
            assert picture.mode == "RGB"
            assert max(picture.size) <= MAX_SIDE_PX
    with lawful(out):
        doc_to_visual({"image_path": str(file)})
    with lawful(out):
        image_of({"bytes": data, "path": None}, "x row 0", out).open()


@pytest.mark.parametrize("data", GOOD, ids=[str(i) for i in range(len(GOOD))])
def test_the_good_pictures_are_good(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as picture:
        readable = picture.mode != "F" and picture.format in FORMATS
    if readable:
        assert open_rgb(data).mode == "RGB"
    else:
        with pytest.raises(DataError, match=r"no colours|no conversion|no picture"):
            open_rgb(data)


@pytest.mark.parametrize("size", [(20_000, 20_000), (13_378, 1), (2**31 - 1, 1)])
def test_a_picture_that_is_larger_than_it_looks_is_never_unpacked(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"shrink it|corrupt"):
        open_rgb(png_of(*size, zlib.compress(b"\0" * 1000)))

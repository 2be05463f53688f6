"""Image files as cv2.imread shows them: depths, modes, orientations, and what stands beside the pixels."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fixtures.errors import InputError
from fixtures.modalities.frames import frame_files
from fixtures.modalities.image_files import decode

PHOTOGRAPH = np.asarray(Image.open(frame_files(None)[3]).convert("RGB").resize((48, 40)))
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (40, 48), dtype=np.uint8)
NOISE_16 = RNG.integers(0, 65536, (40, 48), dtype=np.uint16)
COLOUR = Image.fromarray(PHOTOGRAPH)
PALETTE = COLOUR.quantize(16)
CMYK = Image.fromarray(np.dstack([255 - PHOTOGRAPH, NOISE]), "CMYK")
JPEG, ORIENTATION = {"quality": 90}, 0x0112


def with_alpha(mode: str) -> Image.Image:
    image = COLOUR.convert(mode)
    image.putalpha(Image.fromarray(NOISE))
    return image


def by_opencv(path: Path) -> NDArray[Any]:
    shown = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert shown is not None
    return shown[..., ::-1]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(depth: int, colour: int, row_bytes: int, *, before: bytes = b"", after: bytes = b"", rows: int = 8) -> bytes:
    """A PNG of 8 × 8 random pixels, of which `rows` are there, with chunks before and after them."""
    pixels = b"".join(b"\0" + RNG.bytes(row_bytes) for _ in range(rows))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, 0))
    parts = (header, before, chunk(b"IDAT", zlib.compress(pixels)), after, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


SAVED: dict[str, tuple[Image.Image, dict[str, Any]]] = {
    "rgb.png": (COLOUR, {}),
    "grey.png": (COLOUR.convert("L"), {}),
    "bits.png": (COLOUR.convert("1"), {}),
    "grey_alpha.png": (with_alpha("L"), {}),
    "rgb_alpha.png": (with_alpha("RGB"), {}),
    "palette.png": (PALETTE, {}),
    "palette_of_4_bits.png": (PALETTE, {"bits": 4}),
    "palette_with_transparency.png": (PALETTE, {"transparency": bytes([0, 128] + [255] * 14)}),
    "palette_with_a_transparent_index.png": (PALETTE, {"transparency": 3}),
    "rgb_with_a_transparent_colour.png": (COLOUR, {"transparency": (255, 255, 255)}),
    "grey_16.png": (Image.fromarray(NOISE_16), {}),
    "animated.png": (COLOUR, {"save_all": True, "append_images": [COLOUR.rotate(180)]}),
    "profile.png": (COLOUR, {"icc_profile": RNG.bytes(3000)}),
    "rgb.jpg": (COLOUR, JPEG),
    "grey.jpg": (COLOUR.convert("L"), JPEG),
    "cmyk.jpg": (CMYK, JPEG),
    "rgb_components.jpg": (COLOUR, JPEG | {"keep_rgb": True}),
    "progressive.jpg": (COLOUR, JPEG | {"progressive": True, "subsampling": 0}),
    "several.jpg": (COLOUR, {"format": "MPO", "save_all": True, "append_images": [COLOUR.rotate(180)]}),
    "rgb.tif": (COLOUR, {"compression": "tiff_lzw"}),
    "bits.tif": (COLOUR.convert("1"), {"compression": "group4"}),
    "grey_16.tif": (Image.fromarray(NOISE_16), {}),
    "rgb_alpha.tif": (with_alpha("RGB"), {}),
    "grey_alpha.tif": (with_alpha("L"), {}),
    "cmyk.tif": (CMYK, {}),
    "rgb.bmp": (COLOUR, {}),
    "palette.bmp": (PALETTE, {}),
    "rgb.webp": (COLOUR, {"lossless": True}),
    "rgb_alpha.webp": (with_alpha("RGB"), {}),
}


@pytest.mark.parametrize("name", SAVED)
def test_modes_are_read_as_opencv_reads_them(tmp_path: Path, name: str) -> None:
    image, options = SAVED[name]
    image.save(tmp_path / name, **options)
    read = decode(tmp_path / name)
    assert read.dtype == np.uint8
    assert np.array_equal(read, by_opencv(tmp_path / name))
    assert read.std() > 10


DEPTHS = {
    "1 bit": png(1, 0, 1),
    "2 bits": png(2, 0, 2),
    "4 bits": png(4, 0, 4),
    "grey of 16 bits": png(16, 0, 16),
    "grey of 16 bits with alpha": png(16, 4, 32),
    "RGB of 16 bits": png(16, 2, 48),
    "RGB of 16 bits with alpha": png(16, 6, 64),
    "grey of 16 bits with a transparent one": png(16, 0, 16, before=chunk(b"tRNS", b"\1\2")),
    "palette that is too short": png(4, 3, 4, before=chunk(b"PLTE", bytes(range(9)))),
}


@pytest.mark.parametrize("depth", DEPTHS)
def test_depths_of_png_are_read_as_opencv_reads_them(tmp_path: Path, depth: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(DEPTHS[depth])
    assert np.array_equal(decode(path), by_opencv(path))


def test_depth_camera_keeps_its_differences(tmp_path: Path) -> None:
    millimetres = np.linspace(300, 9000, 40 * 48).astype(np.uint16).reshape(40, 48)
    Image.fromarray(millimetres).save(tmp_path / "a.png")
    assert np.array_equal(decode(tmp_path / "a.png")[..., 0], millimetres >> 8)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(9))
def test_orientation_is_applied(tmp_path: Path, ending: str, orientation: int) -> None:
    path, exif = tmp_path / f"a.{ending}", Image.Exif()
    exif[ORIENTATION] = orientation
    COLOUR.save(path, exif=exif)
    turned = decode(path)
    assert turned.shape == ((48, 40, 3) if orientation > 4 else (40, 48, 3))
    if ending != "tif" or orientation <= 4:  # OpenCV 5.0 gives up on a TIFF that lies on its side
        assert np.array_equal(turned, by_opencv(path))


LARGE_TEXT = chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(b"x" * (2 << 20)))
BESIDE_PIXELS = {
    "a large text": png(8, 2, 24, before=LARGE_TEXT),
    "a large text at the end": png(8, 2, 24, after=LARGE_TEXT),
    "a large profile": png(8, 2, 24, before=chunk(b"iCCP", b"n\0\0" + zlib.compress(bytes(9 << 20)))),
    "a profile that was cut": png(8, 2, 24, before=chunk(b"iCCP", b"n\0\0" + zlib.compress(RNG.bytes(999))[:99])),
    "empty colour chunks": png(8, 2, 24, before=b"".join(chunk(n, b"") for n in (b"gAMA", b"cHRM", b"pHYs", b"iCCP"))),
    "gamma and significant bits": png(8, 2, 24, before=chunk(b"gAMA", b"\0\1\x86\xa0") + chunk(b"sBIT", b"\5\6\5")),
    "a text with a wrong checksum": png(8, 2, 24, before=chunk(b"tEXt", b"a\0b")[:-4] + bytes(4)),
    "a damaged EXIF": png(8, 2, 24, before=chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")),
    "something after its end": png(8, 2, 24) + b"more",
}


@pytest.mark.parametrize("beside", BESIDE_PIXELS)
def test_what_stands_beside_the_pixels_of_a_png_does_not_matter(tmp_path: Path, beside: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(BESIDE_PIXELS[beside])
    assert np.array_equal(decode(path), by_opencv(path))


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


SEGMENTS = {
    "a damaged EXIF": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "a damaged index of images": segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
    "a profile without its parts": segment(0xE2, b"ICC_PROFILE\0\5\1abc"),
    "empty segments": segment(0xE0, b"") + segment(0xE1, b"") + segment(0xED, b"Photoshop 3.0\0"),
    "half a segment of Adobe": segment(0xEE, b"Adobe"),
    "a comment": segment(0xFE, b"a comment") + b"\xff\xff",
}


@pytest.mark.parametrize("beside", SEGMENTS)
def test_what_stands_beside_the_pixels_of_a_jpeg_does_not_matter(tmp_path: Path, beside: str) -> None:
    path = tmp_path / "a.jpg"
    COLOUR.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:2] + SEGMENTS[beside] + whole[2:])
    assert np.array_equal(decode(path), by_opencv(path))


def flipped(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


DAMAGE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "text": (lambda _: b"no image", "UnidentifiedImageError (Pillow cannot identify it)"),
    "empty": (lambda _: b"", "UnidentifiedImageError (Pillow cannot identify it)"),
    "rows missing": (lambda _: png(8, 2, 24, rows=5), "(image file is truncated: 75 bytes of pixels are missing)"),
    "flipped bit": (lambda _: flipped(png(8, 2, 24), 60), "(chunk IDAT is damaged: its checksum is another one)"),
    "flipped bit in the size": (lambda _: flipped(png(8, 2, 24), 19), "(chunk IHDR is damaged: its checksum"),
    "cut JPEG": (lambda path: path.read_bytes()[:-300], "OSError (image file is truncated ("),
    "folder": (lambda _: b"", "IsADirectoryError (Is a directory)"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_image_is_refused_with_a_reason(tmp_path: Path, how: str) -> None:
    path, (change, says) = tmp_path / "a.jpg", DAMAGE[how]
    COLOUR.save(path)
    path.write_bytes(change(path))
    with pytest.raises(InputError) as caught:
        decode(tmp_path if how == "folder" else path)
    assert f"image={says}" in str(caught.value) or says in str(caught.value)
    assert "expected a PNG, JPEG, BMP, TIFF or WebP image of 8 or 16 bits a channel." in str(caught.value)


@pytest.mark.parametrize(("mode", "says"), [("F", "floats"), ("I", "integers of 32 bits"), ("LAB", "LAB")])
def test_pixels_without_a_range_are_refused(tmp_path: Path, mode: str, says: str) -> None:
    image = COLOUR.convert("RGB" if mode == "LAB" else "L").convert(mode)
    image.save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=rf"a\.tif: image=ValueError \(its pixels are {says}.*save it as grey or RGB"):
        decode(tmp_path / "a.tif")


def test_no_warning_of_pillow_reaches_a_session(tmp_path: Path) -> None:
    PALETTE.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    COLOUR.save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[:2] + SEGMENTS["a damaged EXIF"] + whole[2:])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode(tmp_path / "a.png")
        decode(tmp_path / "a.jpg")
    assert not caught


def test_small_file_of_many_pixels_does_not_fill_the_memory(tmp_path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 << 20))))
    with pytest.raises(InputError, match="image file is truncated"):
        decode(path)

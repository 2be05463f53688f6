"""Damaged images of every format: what OpenCV shows, or the right picture, or one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fixtures.errors import InputError
from fixtures.modalities.image_files import decode
from meta_tests.mutations import mutated, mutations_of_each, require_one_message
from meta_tests.test_modalities_image_files import CMYK, COLOUR, NOISE_16, ORIENTATION, PALETTE, with_alpha


def exif() -> Image.Exif:
    """EXIF of a photograph that lies on its side."""
    data = Image.Exif()
    data[ORIENTATION] = 6
    return data


WHOLE: dict[str, tuple[Image.Image, dict[str, Any]]] = {
    "rgb.png": (COLOUR, {"exif": exif(), "icc_profile": bytes(range(256))}),
    "palette.png": (PALETTE, {"transparency": bytes([0, 128]), "bits": 4, "icc_profile": bytes(range(256))}),
    "grey_16.png": (Image.fromarray(NOISE_16), {}),
    "rgb.jpg": (COLOUR, {"exif": exif(), "icc_profile": bytes(range(256)), "comment": b"a photograph"}),
    "cmyk.jpg": (CMYK, {"quality": 90}),
    "progressive.jpg": (COLOUR.convert("L"), {"progressive": True}),
    "rgb.tif": (COLOUR, {"compression": "tiff_lzw"}),
    "rgb_alpha.tif": (with_alpha("RGB"), {}),
    "rgb.bmp": (COLOUR, {}),
    "palette.bmp": (PALETTE, {}),
    "rgb.webp": (COLOUR, {"lossless": True, "exif": exif()}),
    "rgb_alpha.webp": (with_alpha("RGB"), {}),
}


def by_opencv(content: bytes) -> NDArray[np.uint8] | None:
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    return None if shown is None else np.asarray(shown[..., ::-1], np.uint8)


def is_same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether two pictures are equal, upright or on their side: damage may be in the byte that tells."""
    sides = [one] if one.shape == other.shape else [np.rot90(one, turns) for turns in (1, 3)]
    return any(np.array_equal(side, other) for side in sides)


@pytest.mark.parametrize("name", WHOLE)
def test_damaged_image_is_the_picture_that_opencv_shows_or_one_message(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    image, options = WHOLE[name]
    path = tmp_path / name
    image.save(path, **options)
    right, read, refused = decode(path), 0, 0
    for done, content in mutated(path.read_bytes(), mutations_of_each(len(WHOLE)), name):
        path.write_bytes(content)
        try:
            pixels = decode(path)
        except InputError as error:
            require_one_message(error, done)
            refused += 1
            continue
        read += 1
        assert (pixels.dtype.name, pixels.ndim, pixels.shape[2]) == ("uint8", 3, 3), done
        shown = by_opencv(content)
        if shown is not None:  # of a BMP whose pixels are said to be elsewhere, Pillow has the right picture
            assert is_same(pixels, shown) or (name.endswith(".bmp") and is_same(pixels, right)), done
        elif not name.endswith(".tif"):  # OpenCV refuses what Pillow can do without; without checksums no one can tell
            assert is_same(pixels, right), done
    capfd.readouterr()  # OpenCV writes what it thinks of each file
    assert read, "damage that matters to no pixel is passed over"
    assert refused, "damage that matters is refused"

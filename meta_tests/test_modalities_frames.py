"""Photographs: found in a folder, cropped to the aspect of a frame, and refused where they are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fixtures.errors import InputError
from fixtures.modalities.frames import frame_files, read_frame


def test_default_photographs_exist_and_differ() -> None:
    frames = [read_frame(file, (64, 96)) for file in frame_files(None)]
    assert len(frames) >= 5
    assert all(frame.shape == (64, 96, 3) and frame.dtype == np.uint8 and frame.std() > 10 for frame in frames)
    assert len({frame.tobytes() for frame in frames}) == len(frames)


def test_frame_is_cropped_to_its_aspect(tmp_path: Path) -> None:
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, 100:200] = 255  # a white square in the middle
    Image.fromarray(wide).save(tmp_path / "wide.png")
    frame = read_frame(tmp_path / "wide.png", (50, 50))
    assert frame.min() > 200


def test_folder_is_read_sorted_by_name(tmp_path: Path) -> None:
    for name, value in (("b.jpg", 200), ("a.PNG", 100), ("notes.txt", 0)):
        Image.fromarray(np.full((40, 40, 3), value, np.uint8)).save(tmp_path / name, format="PNG")
    files = frame_files(str(tmp_path))
    assert [file.name for file in files] == ["a.PNG", "b.jpg"]


@pytest.mark.parametrize("folder", ["absent", "."])
def test_folder_without_images_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(InputError, match="images=0, expected a folder with PNG, JPEG, BMP, TIFF or WebP files"):
        frame_files(str(tmp_path / folder))


def test_unreadable_folder_is_refused() -> None:
    with pytest.raises(InputError, match=r"--frames (long)+: folder=File name too long"):
        frame_files("long" * 100)


def test_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("no image")
    with pytest.raises(InputError, match=r"a\.png: image="):
        read_frame(path, (32, 32))

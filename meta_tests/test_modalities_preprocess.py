"""The preprocess module against each model's official transform, on photographs and edge values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms._presets import OpticalFlow

from fixtures.modalities.frames import frame_files, read_frame
from fixtures.modalities.preprocess import Preprocess
from fixtures.models import tower_of
from fixtures.records import Normalization
from fixtures.spec import Variant


def normalization_of(family: str, model: str) -> Normalization:
    variant = Variant(name="v", family=family, model=model, height=384, width=384)
    normalization = tower_of(variant).modality.normalization
    assert normalization
    return normalization


IMAGENET = normalization_of("midas", "MiDaS_small")
HALF = normalization_of("midas", "DPT_Hybrid")
RAFT = normalization_of("raft", "raft_small")


def photograph(height: int, width: int) -> NDArray[np.uint8]:
    return np.stack([read_frame(file, (height, width)) for file in frame_files(None)[:2]])


def cubic_weights(length_in: int, length_out: int) -> NDArray[np.float64]:
    """Matrix `[out,in]` of OpenCV's INTER_CUBIC: half-pixel centres, a = −0.75, borders repeated.

    OpenCV, `modules/imgproc/src/resize.cpp`, interpolateCubic.
    """
    a = -0.75
    matrix = np.zeros((length_out, length_in))
    for row in range(length_out):
        centre = (row + 0.5) * length_in / length_out - 0.5
        base = int(np.floor(centre))
        for tap in range(base - 1, base + 3):
            x = abs(centre - tap)
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            matrix[row, min(max(tap, 0), length_in - 1)] += near if x <= 1 else far
    return matrix


@pytest.mark.parametrize("normalization", [IMAGENET, HALF], ids=["MiDaS_small", "DPT"])
@pytest.mark.parametrize("frame_size", [(96, 64), (180, 320), (48, 40)], ids=str)
def test_midas_preprocess_is_official_transform(normalization: Normalization, frame_size: tuple[int, int]) -> None:
    """MiDaS `transforms.py`: /255, cv2.resize INTER_CUBIC, (x − mean) / std, HWC → CHW."""
    size = (96, 64)
    frames = photograph(*frame_size)
    rows, columns = cubic_weights(frame_size[0], size[0]), cubic_weights(frame_size[1], size[1])
    resized = np.einsum("ih,bhwc,jw->bijc", rows, frames / 255.0, columns, optimize=True)
    expected = ((resized - normalization.mean) / normalization.std).transpose(0, 3, 1, 2)
    output = Preprocess(normalization, size, torch.float32)(torch.from_numpy(frames)).double().numpy()
    assert output.shape == (2, 3, *size)
    np.testing.assert_allclose(output, expected, atol=2e-5)


def test_raft_preprocess_is_torchvision_transform() -> None:
    frames = torch.from_numpy(photograph(128, 160))
    expected, _ = OpticalFlow()(frames.permute(0, 3, 1, 2), frames.permute(0, 3, 1, 2))
    output = Preprocess(RAFT, (128, 160), torch.float32)(frames)
    torch.testing.assert_close(output, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("value", "expected"), [(0, -1.0), (255, 1.0)])
def test_0_and_255_reach_ends_of_range(value: int, expected: float) -> None:
    frames = torch.full((1, 128, 128, 3), value, dtype=torch.uint8)
    for normalization in (HALF, RAFT):
        output = Preprocess(normalization, (160, 128), torch.float32)(frames)
        torch.testing.assert_close(output, torch.full((1, 3, 160, 128), expected))


def test_channels_keep_their_order() -> None:
    red = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    red[..., 0] = 255
    output = Preprocess(HALF, (32, 32), torch.float32)(red)
    assert output.mean(dim=(0, 2, 3)).tolist() == [1.0, -1.0, -1.0]


def test_fp16_is_rounded_once_at_the_end() -> None:
    frames = torch.from_numpy(photograph(64, 64))
    half = Preprocess(IMAGENET, (32, 32), torch.float16)(frames)
    full = Preprocess(IMAGENET, (32, 32), torch.float32)(frames)
    assert half.dtype == torch.float16
    assert torch.equal(half, full.half())

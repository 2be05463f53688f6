"""The preprocess module against each model's official transform, on photographs and edge values."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
import timm
import torch
import torchvision.models as library
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms._presets import OpticalFlow

from fixtures.framing import framing
from fixtures.modalities.frames import frame_files, read_frame
from fixtures.modalities.preprocess import Preprocess
from fixtures.models import tower_of
from fixtures.records import Normalization
from fixtures.spec import Kind, Variant


def normalization_of(family: str, model: str) -> Normalization:
    tower: Kind | None = "image" if family == "clip" else None
    variant = Variant(name="v", family=family, model=model, tower=tower, height=384, width=384)
    normalization = tower_of(variant).modality.normalization
    assert normalization
    return normalization


def network(family: str, model: str, height: int, width: int, tower: Kind | None = None) -> Variant:
    return Variant(name="v", family=family, model=model, tower=tower, height=height, width=width)


Transform = Callable[[Image.Image], Tensor]
# Wider and higher than a square, larger and smaller than the inputs.
_FILES = frame_files(None)[2:5]
PHOTOGRAPHS = [Image.open(file).convert("RGB") for file in _FILES]
PHOTOGRAPHS += [PHOTOGRAPHS[1].transpose(Image.Transpose.ROTATE_90), PHOTOGRAPHS[2].resize((120, 81))]
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


# --- networks whose authors crop: their transforms, which work on Pillow's images ---


def torchvision_transform(model: str) -> Transform:
    return cast(Transform, library.get_model_weights(model).DEFAULT.transforms())


def timm_transform(model: str, size: tuple[int, int]) -> Transform:
    trained = timm.get_pretrained_cfg(model)
    assert trained
    config = timm.data.resolve_data_config(pretrained_cfg=trained.to_dict())
    return cast(Transform, timm.data.create_transform(**{**config, "input_size": (3, *size)}))


def clip_transform(side: int) -> Transform:
    """`_transform` of the authors' `clip.py`."""
    steps = [transforms.Resize(side, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(side)]
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return cast(Transform, transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)]))


OFFICIAL: dict[str, tuple[Variant, Transform]] = {
    "torchvision bilinear": (network("torchvision", "resnet50", 224, 224), torchvision_transform("resnet50")),
    "torchvision bicubic": (network("torchvision", "swin_t", 224, 224), torchvision_transform("swin_t")),
    "torchvision, large": (network("torchvision", "inception_v3", 299, 299), torchvision_transform("inception_v3")),
    "CLIP": (network("clip", "ViT-B-32", 224, 224, tower="image"), clip_transform(224)),
    "CLIP at another size": (network("clip", "ViT-B-32", 96, 96, tower="image"), clip_transform(96)),
    **{
        f"timm {model} {height}x{width}": (
            network("timm", model, height, width),
            timm_transform(model, (height, width)),
        )
        for model, height, width in (
            ("resnet18", 224, 224),
            ("resnet18", 160, 288),
            ("vgg11", 64, 64),
            ("tf_efficientnet_b0", 224, 224),
            ("dm_nfnet_f0", 192, 192),  # squashed, then cropped
            ("vit_base_patch16_siglip_224", 224, 224),  # squashed
            ("vit_so400m_patch16_siglip_gap_256", 256, 256),
        )
    },
}


@pytest.mark.parametrize("case", OFFICIAL)
def test_preprocess_of_photographs_is_the_official_transform(case: str) -> None:
    """Pillow rounds columns and rows to whole grey levels, each by half a level at most.

    From version 13 on it resizes rows first where that leaves fewer pixels, and clips between the two.
    """
    variant, transform = OFFICIAL[case]
    normalization = tower_of(variant).modality.normalization_for(variant)
    assert normalization
    module = Preprocess(normalization, variant.size, torch.float32)
    for image in PHOTOGRAPHS:
        official = transform(image)
        output = module(torch.from_numpy(np.array(image))[None])[0]
        difference = (output - official).abs() * 255 * torch.tensor(normalization.std).view(3, 1, 1)
        rows_first = normalization.fit == "squash" and image.height > image.width
        assert difference.max() < (6 if rows_first else 1.2)
        assert difference.mean() < 0.35


@pytest.mark.parametrize("size", [(224, 224), (96, 160)], ids=str)
def test_border_is_that_of_timm(size: tuple[int, int]) -> None:
    """`crop_mode: border` with Pillow's bicubic; timm rounds the mean colour of the border to whole grey levels."""
    normalization = Normalization(
        mean=(0.48, 0.46, 0.41), std=(0.2, 0.3, 0.25), interpolation="bicubic", fit="pad", antialias=True
    )
    official = timm.data.create_transform(
        (3, *size),
        interpolation="bicubic",
        mean=(0.48, 0.46, 0.41),
        std=(0.2, 0.3, 0.25),
        crop_pct=1.0,
        crop_mode="border",
    )
    for image in PHOTOGRAPHS:
        output = Preprocess(normalization, size, torch.float32)(torch.from_numpy(np.array(image))[None])[0]
        difference = (output - official(image)).abs() * 255 * torch.tensor(normalization.std).view(3, 1, 1)
        assert difference.max() < 1.2


def test_fit_of_the_spec_replaces_the_authors() -> None:
    variant = network("torchvision", "resnet50", 64, 64).model_copy(update={"fit": "squash"})
    normalization = tower_of(variant).modality.normalization_for(variant)
    assert normalization
    assert normalization.resize == "squash, bilinear, antialiased"
    (image, *_) = PHOTOGRAPHS
    output = Preprocess(normalization, (64, 64), torch.float32)(torch.from_numpy(np.array(image))[None])[0]
    squashed = transforms.functional.to_tensor(image.resize((64, 64), Image.Resampling.BILINEAR))
    expected = transforms.functional.normalize(squashed, list(normalization.mean), list(normalization.std))
    assert ((output - expected).abs() * 255 * max(normalization.std)).max() < 1.5


@pytest.mark.parametrize(
    ("family", "model", "resize"),
    [
        ("midas", "MiDaS_small", "squash, bicubic"),
        ("raft", "raft_small", "squash, bilinear"),
        ("clip", "ViT-B-32", "crop, bicubic, antialiased"),
        ("torchvision", "resnet50", "crop of 0.966 of the short side, bilinear, antialiased"),
        ("timm", "dm_nfnet_f0", "squash of 0.9 of each side, bicubic, antialiased"),
    ],
)
def test_default_fit_is_the_authors(family: str, model: str, resize: str) -> None:
    assert normalization_of(family, model).resize == resize


def test_crop_of_every_torchvision_network_is_its_own() -> None:
    for model in library.list_models(module=library):
        preset = library.get_model_weights(model).DEFAULT.transforms()
        (short,), (side,) = preset.resize_size, preset.crop_size
        normalization = normalization_of("torchvision", model)
        assert framing(normalization, (side * 3, side * 4), (side, side)).resized == (short, short * 4 // 3), model


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

"""`Family.original`: the truth of the gate has no code of `finalize`, so that a fault there makes a difference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fixtures.models import clip as clip_module
from fixtures.models import family_named
from fixtures.models.parts import clip as clip_parts
from fixtures.models.parts import dpt as dpt_module
from fixtures.models.parts import midas_small as midas_module
from fixtures.models.parts.attention import SplitAttention
from fixtures.models.parts.clip import ClipSizes
from fixtures.models.parts.dpt import Dpt
from fixtures.models.parts.folding import fold_batch_norms
from fixtures.models.parts.upstream_clip import upstream_clip
from fixtures.spec import Variant
from fixtures.synthetic.weights import synthetic_tensor

TINY = ClipSizes(32, 64, 2, 32, 224, 64, 2)
MIDAS = Variant(name="v", family="midas", model="MiDaS_small", height=64, width=96)
IMAGE = Variant(name="v", family="clip", model="ViT-B-32", tower="image", height=64, width=96)
TEXT = Variant(name="v", family="clip", model="ViT-B-32", tower="text", tokens=77)
# Folded and resized numbers are rounded to float32 once.
ROUNDED = 1e-6


def difference(variant: Variant, inputs: Tensor) -> float:
    """Relative L2 distance of the finalised module from the original, both in float64."""
    family = family_named(variant.family)
    torch.manual_seed(0)
    module = family.build(variant).eval().requires_grad_(False)
    entries = module.state_dict()
    drawn = {key: torch.from_numpy(synthetic_tensor(key, tuple(value.shape), 0)) for key, value in entries.items()}
    module.load_state_dict(drawn)
    original = family.original(copy.deepcopy(module), variant).eval().double()
    finalized = family.finalize(module, variant).eval()
    family.cast(finalized, torch.float64)
    with torch.inference_mode():
        truth, output = original(inputs), finalized(inputs)
    return float((output - truth).norm() / truth.norm())


def images(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def texts() -> Tensor:
    return torch.randint(1, 40_000, (2, 77), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tiny_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(clip_module._SIZES, "ViT-B-32", TINY)


def wrong_fold(right: Callable[..., None]) -> Callable[..., None]:
    def fold(module: nn.Module, probe: Tensor | None = None) -> None:
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.eps *= 100
                break
        right(module, probe)

    return fold


def aligned_corners(embedding: Tensor, grid: tuple[int, int], mode: str = "bicubic") -> Tensor:
    side = round((embedding.shape[1] - 1) ** 0.5)
    patches = embedding[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(patches, size=grid, mode=mode, align_corners=True)
    return torch.cat((embedding[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)


def test_folds_of_midas_keep_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    assert difference(MIDAS, images(64, 96)) < ROUNDED
    monkeypatch.setattr(midas_module, "fold_batch_norms", wrong_fold(fold_batch_norms))
    assert difference(MIDAS, images(64, 96)) > 100 * ROUNDED


@pytest.mark.usefixtures("tiny_clip")
@pytest.mark.parametrize(
    ("variant", "inputs", "place", "fault"),
    [
        (IMAGE, images(64, 96), "resized_position_embedding", aligned_corners),
        (IMAGE, images(64, 96), "_QUICK_GELU", 1.0),
        (TEXT, texts(), "_QUICK_GELU", 1.0),
    ],
    ids=["resize", "activation of images", "activation of texts"],
)
def test_towers_of_clip_are_those_of_open_clip(
    monkeypatch: pytest.MonkeyPatch, variant: Variant, inputs: Tensor, place: str, fault: Any
) -> None:
    assert difference(variant, inputs) < ROUNDED
    monkeypatch.setattr(clip_parts, place, fault)
    assert difference(variant, inputs) > 100 * ROUNDED


@pytest.mark.usefixtures("tiny_clip")
@pytest.mark.parametrize(("variant", "inputs"), [(IMAGE, images(64, 96)), (TEXT, texts())], ids=["images", "texts"])
def test_gelu_of_clip_is_that_of_open_clip(monkeypatch: pytest.MonkeyPatch, variant: Variant, inputs: Tensor) -> None:
    with_gelu = variant.model_copy(update={"activation": "gelu"})
    assert difference(with_gelu, inputs) < ROUNDED
    as_openai = partial(upstream_clip, quick_gelu=True)
    monkeypatch.setattr(clip_module, "upstream_clip", lambda entries, size, _quick_gelu: as_openai(entries, size))
    assert difference(with_gelu, inputs) > 100 * ROUNDED
    assert difference(variant, inputs) < ROUNDED


def test_resize_and_attention_of_dpt_are_those_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> Dpt:
        torch.manual_seed(0)
        dpt = Dpt("vit_tiny_patch16_384", 64, 96, (8, 8, 8, 8))
        nn.init.normal_(dpt.pretrained.model.pos_embed)
        return dpt.eval().requires_grad_(False)

    def distance() -> float:
        original, finalized = made(), made()
        original.resize_as_timm()
        finalized.finalize()
        patches = torch.randn(1, 192, 4, 6, generator=torch.Generator().manual_seed(0))
        truth, output = (dpt.block_outputs(dpt.embed(patches), (3,))[0] for dpt in (original, finalized))
        assert not any(isinstance(module, SplitAttention) for module in original.modules())
        return float((output - truth).norm() / truth.norm())

    assert distance() < ROUNDED
    monkeypatch.setattr(dpt_module, "resized_position_embedding", partial(aligned_corners, mode="bilinear"))
    assert distance() > 100 * ROUNDED

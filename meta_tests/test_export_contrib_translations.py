"""fixtures/export/contrib_translations.py: an operator of ONNX Runtime's own is that of torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from fixtures.export.contrib_translations import CONTRIB_TRANSLATIONS, CUDA_TRANSLATIONS
from fixtures.onnx_session import open_session, run
from meta_tests.cuda_operators import with_stand_ins
from meta_tests.test_export_translations import (
    IMAGES,
    NORM_TOLERANCE,
    Translate,
    operators,
    with_random_weights,
    written,
)

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def translate(tmp_path: Path) -> Translate:
    """Writes a module as ONNX, by the translations of a graph."""
    return partial(written, tmp_path)


def answer_in_float64(model: onnx.ModelProto, image: Tensor) -> Tensor:
    """Output of a file for CUDA, whose group norms a stand-in computes here."""
    session = onnxruntime.InferenceSession(with_stand_ins(model).SerializeToString())
    (name,) = (given.name for given in session.get_inputs())
    return torch.from_numpy(session.run(None, {name: image.numpy()})[0]).double()


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(4, 8), nn.GroupNorm(2, 8, affine=False)], ids=["with weights", "without weights"]
)
def test_group_norm_for_cuda_is_one_operator(translate: Translate, norm: nn.Module) -> None:
    norm = with_random_weights(norm)
    image = IMAGES["random"]
    model = onnx.load(translate(norm, (image,), CUDA_TRANSLATIONS))
    assert [node.op_type for node in model.graph.node] == ["Transpose", "GroupNorm", "Transpose"]
    assert (answer_in_float64(model, image) - norm.double()(image.double())).abs().max() < NORM_TOLERANCE


@pytest.mark.parametrize("norm", [nn.GroupNorm(8, 8), nn.InstanceNorm2d(8)], ids=["groups", "instances"])
def test_norm_of_an_odd_number_of_channels_is_written_out_for_cuda(translate: Translate, norm: nn.Module) -> None:
    assert "GroupNorm" not in operators(translate(norm, (IMAGES["random"],), CUDA_TRANSLATIONS))


class Upsampled(nn.Module):
    def __init__(self, size: tuple[int, int], align_corners: bool) -> None:
        super().__init__()
        self.size, self.align_corners = size, align_corners

    def forward(self, image: Tensor) -> Tensor:
        return interpolate(image, size=self.size, mode="bilinear", align_corners=self.align_corners)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(32, 40), (33, 21), (7, 5), (1, 1)], ids=str)
def test_resize_for_cuda_is_that_of_torch(translate: Translate, size: tuple[int, int], align_corners: bool) -> None:
    module, image = Upsampled(size, align_corners), IMAGES["far from zero"]
    path = translate(module, (image,), CUDA_TRANSLATIONS)
    assert "MatMul" in operators(path)
    output = run(open_session(path, "cpu", "fp32"), (image.numpy(),))
    assert np.abs(output - module(image.double()).numpy()).max() < 1e-4


def test_resize_for_cuda_keeps_a_flat_map_flat_in_fp16(translate: Translate) -> None:
    """Weights that do not add up to one would show on every flat map, such as a wall or the sky."""
    image = torch.full((1, 2, 24, 24), 1.0).half()
    session = open_session(translate(Upsampled((48, 48), True), (image,), CUDA_TRANSLATIONS), "cpu", "fp16")
    (name,) = (given.name for given in session.get_inputs())
    assert (session.run(None, {name: image.numpy()})[0] == 1).all()


class Activation(nn.Module):
    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, tokens: Tensor) -> Tensor:
        return gelu(tokens, approximate=self.approximate)


@pytest.mark.parametrize(("approximate", "is_one"), [("none", True), ("tanh", False)])
def test_gelu_is_one_operator_where_it_is_exact(translate: Translate, approximate: str, is_one: bool) -> None:
    tokens = torch.linspace(-6, 6, 97)[None]
    path = translate(Activation(approximate), (tokens,), CONTRIB_TRANSLATIONS)
    assert (operators(path) == {"Gelu"}) == is_one
    output = torch.from_numpy(run(open_session(path, "cpu", "fp32"), (tokens.numpy(),)))
    assert (output - gelu(tokens.double(), approximate=approximate)).abs().max() < 1e-6

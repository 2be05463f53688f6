"""fixtures/export/translations.py: an operator in ONNX is that of torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fixtures.export.translations import TRANSLATIONS
from fixtures.onnx_session import open_session, run

Translate = Callable[..., Path]


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, **self.options)


def written(folder: Path, module: nn.Module, inputs: tuple[Tensor, ...], table: dict[Any, Any] = TRANSLATIONS) -> Path:
    """A module as ONNX, by the translations that an export uses."""
    program = torch.onnx.export(
        module.eval(), inputs, dynamo=True, opset_version=18, custom_translation_table=table, verbose=False
    )
    assert program is not None
    path = folder / "module.onnx"
    program.save(path)
    return path


@pytest.fixture
def translate(tmp_path: Path) -> Translate:
    """Writes a module as ONNX."""
    return partial(written, tmp_path)


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def with_random_weights(norm: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for weight in norm.parameters():
        nn.init.uniform_(weight, 0.5, 1.5, generator=generator)
    return norm.requires_grad_(False)


# A mean is off by its last bit, 3e-8 for the constant image, and a deviation of zero is √1e-5: that makes 1e-5.
# torch's own translation is off by up to 1.5e-4 there.
NORM_TOLERANCE = 2e-5
IMAGES = {
    "random": torch.randn(2, 8, 16, 20, generator=torch.Generator().manual_seed(0)),
    "constant": torch.full((2, 8, 16, 20), 0.3),
    "far from zero": 100 + torch.randn(2, 8, 16, 20, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "norm",
    [nn.GroupNorm(4, 8), nn.GroupNorm(2, 8, affine=False), nn.InstanceNorm2d(8), nn.InstanceNorm2d(8, affine=True)],
    ids=["groups", "groups without weights", "instances", "instances with weights"],
)
def test_norm_is_that_of_torch(translate: Translate, norm: nn.Module) -> None:
    norm = with_random_weights(norm)
    truth = copy.deepcopy(norm).double()
    path = translate(norm, (IMAGES["random"],))
    assert operators(path) >= {"ReduceMean", "Sqrt"}
    session = open_session(path, "cpu", "fp32")
    for name, image in IMAGES.items():
        output = torch.from_numpy(run(session, (image.numpy(),)))
        assert (output - truth(image.double())).abs().max() < NORM_TOLERANCE, name


@pytest.mark.filterwarnings("default")
def test_norm_in_fp16_is_left_to_the_runtime(translate: Translate) -> None:
    norm = with_random_weights(nn.GroupNorm(4, 8))
    image = IMAGES["random"]
    path = translate(norm.half(), (image.half(),))
    assert "InstanceNormalization" in operators(path)
    session = open_session(path, "cpu", "fp16")
    (name,) = (node.name for node in session.get_inputs())
    output = torch.from_numpy(session.run(None, {name: image.half().numpy()})[0])
    assert (output.float() - norm.float()(image.half().float())).abs().max() < 1e-2


class Mean(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.mean((2, 3))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_mean_is_summed_in_float32(translate: Translate, dtype: torch.dtype) -> None:
    """In fp16 these sums would be infinite on CUDA; a CPU shows only that the file asks for float32."""
    image = 4000 + IMAGES["random"]
    path = translate(Mean(), (image.to(dtype),))
    assert ("Cast" in operators(path)) is (dtype == torch.float16)
    session = open_session(path, "cpu", "fp32")
    (name,) = (node.name for node in session.get_inputs())
    output = torch.from_numpy(session.run(None, {name: image.to(dtype).numpy()})[0])
    assert output.dtype == dtype
    assert (output.double() / image.double().mean((2, 3)) - 1).abs().max() < (1e-3 if dtype == torch.float16 else 1e-6)


class Spread(nn.Module):
    """The spread of a map, as EvoNorm and norms over channels compute it."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        self.function: Callable[..., Any] = getattr(torch, name)
        self.options = options

    def forward(self, image: Tensor) -> Tensor:
        found = self.function(image, **self.options)
        return torch.cat(found, dim=-1) if isinstance(found, tuple) else found


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("var", {"dim": (2, 3), "correction": 0, "keepdim": True}),
        ("var", {"dim": (1, -1)}),
        ("std", {"dim": 1, "keepdim": True}),
        ("var_mean", {"dim": (2, 3), "correction": 0, "keepdim": True}),
    ],
)
def test_variance_loses_no_digits_on_a_nearly_constant_map(
    translate: Translate, name: str, options: dict[str, Any]
) -> None:
    spread = Spread(name, **options)
    session = open_session(translate(spread, (IMAGES["random"],)), "cpu", "fp32")
    for image in (IMAGES["random"], 100 + IMAGES["random"] / 10):
        output, truth = torch.from_numpy(run(session, (image.numpy(),))).double(), spread(image.double())
        # The input's own last digit is 4e-6 of a deviation of 0.1.
        assert ((output - truth).norm() / truth.norm()) < 2e-6
        assert output.shape == truth.shape


def heads(*shape: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=generator) for _ in range(3))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("options", "fused"),
    [
        ({}, True),
        ({"scale": 0.5}, True),
        ({"is_causal": True}, True),
        ({"attn_mask": torch.ones(10, 10).tril() == 1}, False),
        ({"attn_mask": torch.linspace(-3, 3, 100).reshape(10, 10)}, False),
    ],
    ids=["plain", "scale", "causal", "mask of booleans", "mask of numbers"],
)
def test_attention_is_that_of_torch(translate: Translate, options: dict[str, Any], fused: bool) -> None:
    module, inputs = Attention(**options), heads(2, 4, 10, 8)
    path = translate(module, inputs)
    assert ("MultiHeadAttention" in operators(path)) is fused
    session = open_session(path, "cpu", "fp32")
    output = torch.from_numpy(run(session, tuple(tensor.numpy() for tensor in inputs)))
    assert (output - module(*inputs)).abs().max() < 1e-5

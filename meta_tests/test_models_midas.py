"""MiDaS against the outputs of the upstream implementation, recorded in float64 for weights made from a seed."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fixtures.models import family_named
from fixtures.models.parts.positions import resized_position_embedding
from fixtures.spec import Variant
from fixtures.synthetic.weights import drawn_tensor, generator

REFERENCE = Path(__file__).parent / "reference"
MIDAS = family_named("midas")

RECORDED = [
    ("MiDaS_small", "midas_small_256", "midas_v21_small_256"),
    ("DPT_Hybrid", "midas_hybrid_384", "dpt_hybrid_384"),
]


@cache
def state_dict_of(keys: str, seed: int) -> dict[str, torch.Tensor]:
    shapes = json.loads((REFERENCE / f"{keys}.keys.json").read_text())
    return {key: torch.from_numpy(drawn_tensor(key, tuple(shape), seed)) for key, shape in shapes.items()}


def image(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The normalised input of a recording: waves plus a little noise, from its name."""
    batch, channels, height, width = shape
    rng = generator(f"input:{name}:{shape}")
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    out = np.empty(shape, np.float32)
    for index in np.ndindex(batch, channels):
        fy, fx, phase = rng.uniform(1, 6), rng.uniform(1, 6), rng.uniform(0, 6.28)
        out[index] = np.sin(2 * np.pi * (fy * y / height + fx * x / width) + phase)
    return (out + 0.1 * rng.standard_normal(shape)).astype(np.float32)


def variant(model: str, height: int, width: int) -> Variant:
    return Variant(name="v", family="midas", model=model, height=height, width=width)


def loaded(model: str, keys: str, seed: int, size: int) -> nn.Module:
    with torch.device("meta"):
        module = MIDAS.build(variant(model, size, size))
    weights = {key: value.clone() for key, value in state_dict_of(keys, seed).items()}
    module.load_state_dict(weights, strict=True, assign=True)
    return module.eval()


def relative_error(module: nn.Module, recording: Any, dtype: torch.dtype) -> float:
    shape = tuple(int(length) for length in recording["input_shape"])
    frame = torch.from_numpy(image(str(recording["input_name"]), shape)).to(dtype)
    stride = int(recording["stride"])
    with torch.inference_mode():
        output = module.to(dtype)(frame)[:, ::stride, ::stride].double().numpy()
    expected = recording["output"].astype(np.float64)
    return float(np.linalg.norm(output - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("model", "name", "keys"), RECORDED)
def test_output_is_that_of_upstream(model: str, name: str, keys: str) -> None:
    recording = np.load(REFERENCE / f"{name}.npz")
    module = loaded(model, keys, int(recording["seed"]), int(recording["input_shape"][2]))
    # 1e-7 is the rounding of the recording to float32: in float64 there is no other difference.
    assert relative_error(module, recording, torch.float64) < 1e-7


@pytest.mark.parametrize(("model", "name", "keys"), RECORDED)
def test_float32_adds_only_rounding(model: str, name: str, keys: str) -> None:
    """Random weights amplify: half a unit in the last place of the input alone moves the output by 1e-6 to 5e-6.

    Fifty layers of such roundings, in any order of summation, add up to 2e-5 (small) and 4e-5 (hybrid), with the
    weights folded or not.
    """
    recording = np.load(REFERENCE / f"{name}.npz")
    module = loaded(model, keys, int(recording["seed"]), int(recording["input_shape"][2]))
    plain = relative_error(module, recording, torch.float32)
    MIDAS.finalize(module, variant(model, 384, 384))
    folded = relative_error(module, recording, torch.float32)
    assert plain < 1e-4
    assert folded < 1.5 * plain + 1e-6


def test_folding_rounds_weights_once() -> None:
    recording = np.load(REFERENCE / "midas_small_256.npz")
    module = loaded("MiDaS_small", "midas_v21_small_256", int(recording["seed"]), 256)
    MIDAS.finalize(module, variant("MiDaS_small", 256, 256))
    assert relative_error(module, recording, torch.float64) < 1e-5


def test_changed_weight_shows_in_the_error() -> None:
    recording = np.load(REFERENCE / "midas_small_256.npz")
    module = loaded("MiDaS_small", "midas_v21_small_256", int(recording["seed"]), 256)
    with torch.no_grad():
        module.get_parameter("scratch.layer1_rn.weight").mul_(1.001)
    assert relative_error(module, recording, torch.float64) > 1e-6


@cache
def built_on_meta(model: str, size: tuple[int, int]) -> nn.Module:
    with torch.device("meta"):
        return MIDAS.build(variant(model, *size)).eval()


def shapes_of(module: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in module.state_dict().items()}


@pytest.mark.parametrize("model", ["MiDaS_small", "DPT_Hybrid", "DPT_Large"])
@pytest.mark.parametrize("size", [(64, 96), (512, 352)], ids=str)
def test_keys_fit_any_multiple_of_32(model: str, size: tuple[int, int]) -> None:
    assert shapes_of(built_on_meta(model, size)) == shapes_of(built_on_meta(model, (384, 384)))


@pytest.mark.parametrize("model", ["MiDaS_small", "DPT_Hybrid", "DPT_Large"])
def test_output_has_the_size_of_the_variant(model: str) -> None:
    output = built_on_meta(model, (384, 384))(torch.empty(2, 3, 384, 384, device="meta"))
    assert tuple(output.shape) == MIDAS.output_shape(variant(model, 384, 384), 2)


def test_dpt_large_runs_at_another_size() -> None:
    large = variant("DPT_Large", 64, 96)
    with torch.device("meta"):  # its random initialisation takes seconds
        module = MIDAS.build(large)
    zeros = {key: torch.zeros(value.shape) for key, value in module.state_dict().items()}
    module.load_state_dict(zeros, strict=True, assign=True)
    keys = module.eval().state_dict()
    assert keys["pretrained.model.pos_embed"].shape == (1, 1 + 24 * 24, 1024)
    assert keys["pretrained.act_postprocess1.4.weight"].shape == (256, 256, 4, 4)
    assert keys["pretrained.act_postprocess4.4.bias"].shape == (1024,)
    MIDAS.finalize(module, large)
    with torch.inference_mode():
        assert module(torch.zeros(1, 3, 64, 96)).shape == (1, 64, 96)


def test_resized_position_embedding_keeps_class_token() -> None:
    embedding = torch.randn(1, 1 + 4 * 4, 3)
    assert torch.equal(resized_position_embedding(embedding, (4, 4)), embedding)
    resized = resized_position_embedding(embedding, (2, 8))
    assert resized.shape == (1, 1 + 16, 3)
    assert torch.equal(resized[:, 0], embedding[:, 0])

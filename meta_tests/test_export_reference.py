"""The torch module's own outputs: draws from its rounding errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fixtures.export.reference import perturb

_UNIT = 2.0**-11


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_draw_has_no_drift(dtype: torch.dtype) -> None:
    layer = nn.Linear(400, 400, bias=False).to(dtype)
    before = layer.weight.detach().double().clone()
    perturb(layer, _UNIT, torch.Generator().manual_seed(0))

    moved = layer.weight.detach().double() / before - 1
    assert moved.abs().max() <= 2 * _UNIT  # half a unit, rounded to a neighbour
    assert moved.std() > 0.2 * _UNIT
    assert abs(moved.mean()) < 0.01 * _UNIT


def test_draw_moves_outputs_of_layers() -> None:
    layers = nn.Sequential(nn.Identity(), nn.Identity()).half()
    given = torch.full((100_000,), 1.5, dtype=torch.float16)
    perturb(layers, _UNIT, torch.Generator().manual_seed(0))

    moved = layers(given).double() / 1.5 - 1
    assert moved.std() > 0.2 * _UNIT
    assert abs(moved.mean()) < 0.01 * _UNIT

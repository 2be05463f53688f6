"""fixtures/export/formats/norms.py: the same function as torch's norms, and exact where Inductor's own code is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fixtures.export.accuracy import relative_error
from fixtures.export.formats.norms import (
    group_norm_by_channel,
    has_group_norms,
    with_exact_norms,
    with_norms_by_channel,
)
from meta_tests.packages import compiled_once

TakeApart = Callable[[torch.export.ExportedProgram], torch.export.ExportedProgram]

GREY = 0.00392  # of a frame in -1 ... 1


def affine(norm: nn.Module) -> nn.Module:
    """A norm with weights and biases that are neither one nor zero."""
    generator = torch.Generator().manual_seed(0)
    for weight in norm.parameters():
        nn.init.uniform_(weight, 0.5, 1.5, generator=generator)
    return norm.double().eval()


@pytest.mark.parametrize("take_apart", [with_exact_norms, with_norms_by_channel])
@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.InstanceNorm2d(6), (2, 6, 5, 7)),
        (nn.InstanceNorm2d(6, affine=True), (2, 6, 5, 7)),
        (nn.InstanceNorm1d(6), (2, 6, 5)),
        (nn.GroupNorm(3, 6), (2, 6, 5, 7)),
        (nn.GroupNorm(2, 6, eps=1e-2), (2, 6, 5)),
        (nn.GroupNorm(2, 6, affine=False), (2, 6)),
    ],
    ids=str,
)
def test_norm_is_the_same_function(norm: nn.Module, shape: tuple[int, ...], take_apart: TakeApart) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    exported = torch.export.export(affine(norm), (given,), strict=False)
    assert has_group_norms(exported) == isinstance(norm, nn.GroupNorm)
    program = take_apart(exported)
    assert not has_group_norms(program)
    torch.testing.assert_close(program.module()(given), norm(given), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("deviation", [1.0, 1e-2, 1e-4])
def test_group_norm_by_channel_is_as_exact_as_torch_around_a_large_value(deviation: float) -> None:
    """The mean of squares alone would lose every digit of a deviation of 1e-4 around 5."""
    given = 5 + deviation * torch.randn((2, 6, 24, 24), generator=torch.Generator().manual_seed(1))
    truth = F.group_norm(given.double(), 3).numpy()
    error = relative_error(group_norm_by_channel(given, 3).double().numpy(), truth)
    assert error <= 2 * relative_error(F.group_norm(given, 3).double().numpy(), truth)


def test_group_norm_by_channel_answers_in_the_dtype_of_its_input() -> None:
    given = torch.randn((2, 6, 24, 24), generator=torch.Generator().manual_seed(1)).half()
    answer = group_norm_by_channel(given, 3)
    assert answer.dtype == torch.float16
    torch.testing.assert_close(answer.double(), F.group_norm(given.double(), 3), rtol=1e-3, atol=1e-3)


def test_other_operators_stay_as_they_are() -> None:
    class Net(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
            return F.group_norm(F.layer_norm(mixed, (8,)), 2)

    program = torch.export.export(Net(), (torch.zeros(1, 2, 4, 8),), strict=False)
    exact = [str(node.target) for node in with_exact_norms(program).graph.nodes]
    assert "aten.scaled_dot_product_attention.default" in exact
    assert "aten.layer_norm.default" in exact
    assert not any("group_norm" in name for name in exact)


def test_program_without_norms_is_returned_as_it_is() -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),), strict=False)
    assert with_exact_norms(program) is program


def test_compiled_norm_of_a_grey_frame_is_as_exact_as_torch() -> None:
    """Inductor's own code for the norms of this network is 4.3e-4 from float64, two hundred times torch's error."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 7, padding=3), nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    net.append(nn.InstanceNorm2d(8)).eval()
    frame = torch.full((1, 3, 128, 128), GREY)
    exact = with_exact_norms(torch.export.export(net, (frame,), strict=False)).module()
    with torch.no_grad(), compiled_once():
        answer = torch.compile(exact)(frame)
        own, truth = net(frame).double().numpy(), net.double()(frame.double()).numpy()
    assert relative_error(answer.double().numpy(), truth) <= 10 * relative_error(own, truth)

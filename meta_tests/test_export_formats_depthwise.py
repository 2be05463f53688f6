"""fixtures/export/formats/depthwise.py: sums of shifted maps, the same answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from fixtures.export.formats.depthwise import SummedDepthwiseConv2d, sum_depthwise


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 5, "padding": 2, "bias": False},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 5, "stride": 2},
        {"kernel_size": (1, 5), "stride": (1, 2), "padding": (3, 1), "dilation": (1, 2)},
        {"kernel_size": 3, "dilation": 4, "padding": 4},
    ],
)
def test_depthwise_convolution_as_a_sum_gives_the_same_answer(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 12, groups=12, **options)
    summed = nn.Sequential(nn.Sequential(conv))
    assert sum_depthwise(summed)
    assert [type(one) for one in summed.modules()][2:] == [SummedDepthwiseConv2d]
    for image in (torch.randn(2, 12, 15, 18), torch.randn(1, 12, 16, 17)):
        torch.testing.assert_close(summed(image), conv(image), rtol=1e-6, atol=1e-6)


def test_sum_of_fp16_is_added_up_in_float32() -> None:
    """In fp16 a weight of 1 added to 4096 is lost, and 24 of them are."""
    conv = nn.Conv2d(2, 2, 5, groups=2, bias=False).half()
    nn.init.ones_(conv.weight)
    conv.weight.data[:, :, 0, 0] = 4096
    net = nn.Sequential(conv)
    sum_depthwise(net)
    assert net(torch.ones(1, 2, 5, 5, dtype=torch.float16)).flatten().tolist() == [4120.0, 4120.0]


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 8, 3, groups=4),
        nn.Conv2d(8, 16, 3, groups=8),
        nn.Conv2d(1, 1, 3),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect", groups=8),
        nn.Conv2d(8, 8, 3, padding="same", groups=8),
        nn.Conv2d(8, 8, 7, groups=8),
        Conv2dSame(8, 8, 3, groups=8),
    ],
    ids=["groups", "two of each", "one channel", "other padding", "padding by name", "large kernel", "subclass"],
)
def test_other_convolutions_stay_as_they_are(conv: nn.Conv2d) -> None:
    net = nn.Sequential(conv)
    assert not sum_depthwise(net)
    assert net[0] is conv

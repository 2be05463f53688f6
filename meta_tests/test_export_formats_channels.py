"""fixtures/export/formats/channels.py: wider feature maps, the same answers."""

from __future__ import annotations

import pytest
import torch
from timm.layers import StdConv2d
from torch import Tensor, nn

from fixtures.export.formats.channels import PaddedConv2d, align_channels


class Net(nn.Module):
    """Convolutions of a motion encoder: two channels of flow, a first layer, and what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 10, 7, stride=2, padding=3)
        self.encoder = nn.Sequential(nn.Conv2d(10, 12, 3, padding=1, dilation=1), nn.ReLU(), nn.Conv2d(12, 16, (1, 3)))
        self.aligned = nn.Conv2d(16, 6, 1, bias=False)
        self.grouped = nn.Conv2d(6, 6, 3, groups=3)

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.grouped(self.aligned(self.encoder(self.image(image))))
        return answer


def test_convolutions_on_unaligned_channels_are_widened_and_answer_alike() -> None:
    torch.manual_seed(0)
    net, image = Net().double().eval(), torch.randn(2, 3, 32, 40, dtype=torch.float64)
    with torch.no_grad():
        before = net(image)
        align_channels(net)
        torch.testing.assert_close(net(image), before, rtol=1e-12, atol=1e-12)
    widened = {name: one.weight.shape[1] for name, one in net.named_modules() if isinstance(one, PaddedConv2d)}
    assert widened == {"encoder.0": 16, "encoder.2": 16}


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(10, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(10, 10, 3, groups=5),
        StdConv2d(10, 8, 3),
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(24, 8, 3),
    ],
    ids=["other padding", "groups", "standardised weights", "image", "aligned"],
)
def test_other_convolutions_stay_as_they_are(conv: nn.Conv2d) -> None:
    net = nn.Sequential(conv)
    align_channels(net)
    assert net[0] is conv

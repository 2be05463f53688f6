"""RAFT against torchvision, which is the upstream implementation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import optical_flow

from fixtures.models import family_named
from fixtures.spec import Variant
from fixtures.synthetic.weights import drawn_tensor

RAFT = family_named("raft")


def pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(2, 3, height, width, generator=generator) * 2 - 1
    return first, first.roll(3, dims=-1)


def variant(model: str, height: int, width: int) -> Variant:
    return Variant(name="v", family="raft", model=model, height=height, width=width)


def both(model: str, height: int, width: int) -> tuple[nn.Module, nn.Module]:
    upstream: Any = getattr(optical_flow, model)(weights=None).eval()
    state_dict = {
        key: torch.from_numpy(drawn_tensor(key, tuple(value.shape), 0)) for key, value in upstream.state_dict().items()
    }
    upstream.load_state_dict(state_dict)
    with torch.device("meta"):
        ours = RAFT.build(variant(model, height, width))
    ours.load_state_dict({key: value.clone() for key, value in state_dict.items()}, strict=True, assign=True)
    ours.eval().requires_grad_(False)
    return upstream, RAFT.finalize(ours, variant(model, height, width))


def test_coordinates_never_pass_through_fp16() -> None:
    _, exact = both("raft_small", 160, 128)
    _, ours = both("raft_small", 160, 128)
    RAFT.cast(ours, torch.float16)
    assert ours.get_parameter("feature_encoder.convnormrelu.0.weight").dtype == torch.float16
    for name, buffer in exact.named_buffers():
        assert torch.equal(ours.get_buffer(name), buffer.float()), name


@pytest.mark.parametrize(("model", "height", "width"), [("raft_small", 160, 128), ("raft_large", 128, 160)])
def test_output_is_last_refinement_of_torchvision(model: str, height: int, width: int) -> None:
    upstream, ours = both(model, height, width)
    frames = pair(height, width)
    with torch.inference_mode():
        *_, earlier, last = upstream(*frames)
        output = ours(*frames)
    assert output.shape == RAFT.output_shape(variant(model, height, width), 2)
    error = (output - last).norm() / last.norm()
    assert error < 1e-5
    assert (output - earlier).norm() / last.norm() > 100 * error, "the second-to-last refinement must be told apart"


def test_order_of_frames_matters() -> None:
    _, ours = both("raft_small", 128, 128)
    first, second = pair(128, 128)
    with torch.inference_mode():
        forward, backward = ours(first, second), ours(second, first)
    assert (forward - backward).norm() / forward.norm() > 0.1


def test_rows_of_a_batch_are_independent() -> None:
    _, ours = both("raft_small", 128, 128)
    first, second = pair(128, 128)
    with torch.inference_mode():
        batch = ours(first, second)
        alone = torch.cat([ours(first[i : i + 1], second[i : i + 1]) for i in range(2)])
    assert (batch - alone).norm() / batch.norm() < 1e-5


def test_forward_creates_no_tensor_on_the_cpu() -> None:
    """A CUDA graph cannot capture the copy of a constant that each call makes on the CPU."""
    _, ours = both("raft_small", 128, 128)
    assert {name for name, _ in ours.named_buffers()} >= {"grid", "scale0", "window3"}
    with torch.inference_mode():
        moved = ours.to("meta")
        assert moved(*(frame.to("meta") for frame in pair(128, 128))).device.type == "meta"

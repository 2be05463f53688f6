"""Networks of torchvision and timm at other sizes and in fp16: what they take, and what a person is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from fixtures.errors import InputError
from fixtures.export.accuracy import yardstick_problems
from fixtures.export.parity_inputs import parity_inputs
from fixtures.export.reference import Reference
from fixtures.subject import require_loadable
from fixtures.weights.bundle import Bundle
from meta_tests.loading import CONTENT
from meta_tests.test_models_classification import FAMILIES, TIMM, variant_of


@pytest.mark.parametrize(
    ("name", "model", "height", "width"),
    [
        ("torchvision", "maxvit_t", 448, 448),
        ("torchvision", "swin_t", 56, 112),
        ("timm", "test_vit", 96, 64),
        ("timm", "deit_tiny_patch16_224", 96, 64),  # takes no other size than it was built for
        ("timm", "tf_efficientnet_b0_ns", 64, 64),
    ],
)
def test_network_takes_another_size(name: str, model: str, height: int, width: int) -> None:
    variant = variant_of(name, model, height=height, width=width, classes=10)
    with torch.device("meta"):
        network = FAMILIES[name].build(variant)
    FAMILIES[name].require_size(network, variant)


def test_size_that_a_network_does_not_take_is_known_before_anything_runs(tmp_path: Path) -> None:
    variant = variant_of("timm", "levit_128s", height=64, width=64, classes=10)
    path = tmp_path / "visual" / "timm" / "model.safetensors"
    path.parent.mkdir(parents=True)
    with torch.device("meta"):
        keys = TIMM.build(variant).state_dict()
    save_file({key: torch.zeros(value.shape, dtype=value.dtype) for key, value in keys.items()}, path)
    with pytest.raises(InputError, match=r"variant v: height x width=64x64, expected a size that levit_128s takes \("):
        require_loadable(variant, Bundle(tmp_path))


def test_swin_of_timm_keeps_the_windows_that_it_was_trained_with() -> None:
    """`set_input_size` would scale them with the image."""
    name = "swin_tiny_patch4_window7_224"
    with torch.device("meta"):
        network = TIMM.build(variant_of("timm", name, classes=10))
        assert TIMM.resized(network, variant_of("timm", name, classes=10)) is network
        larger = TIMM.resized(network, variant_of("timm", name, height=448, width=448, classes=10))
    windows = {module.window_size for module in larger.modules() if hasattr(module, "window_size")}
    assert windows == {(7, 7)}


def test_overflow_of_the_model_in_fp16_is_told(tmp_path: Path) -> None:
    variant = variant_of("timm", "test_resnet", height=64, width=64)
    torch.manual_seed(0)
    entries = timm.create_model("test_resnet").state_dict()
    entries["fc.weight"] *= 3e6
    path = tmp_path / "model.safetensors"
    save_file(entries, path)
    reference = Reference(variant, path, parity_inputs(CONTENT, variant)[:1])
    (problem,) = yardstick_problems(reference, "cpu", "fp16", None)
    assert re.match(r"photograph 0: the model overflows in fp16: \d+ of 1000 output values of torch itself", problem)
    assert "Write `dtype: fp32` for the variant" in problem
    assert list(yardstick_problems(reference, "cpu", "fp32", None)) == []

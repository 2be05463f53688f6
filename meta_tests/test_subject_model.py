"""fixtures/subject/model.py: modules that are loaded again share no weights, also where the file is mapped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fixtures.files import sha256_of
from fixtures.spec import Variant
from fixtures.subject import Loader, load_model, locate_checkpoint
from fixtures.weights.bundle import Bundle
from meta_tests.exports import MIDAS, RAFT


@torch.no_grad()
def double(module: nn.Module) -> None:
    """Multiply every weight by two, in place."""
    for weight in module.parameters():
        weight.mul_(2)


def entries(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's tensors."""
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_same(module: nn.Module, expected: dict[str, Tensor]) -> None:
    """The module has these entries, bit for bit."""
    own = module.state_dict()
    assert own.keys() == expected.keys()
    assert [key for key in own if not torch.equal(own[key], expected[key])] == []


@pytest.mark.parametrize("mapped", [False, True], ids=["read", "mapped"])
@pytest.mark.parametrize("variant", [MIDAS, RAFT], ids=["midas", "raft"])
def test_change_of_one_module_reaches_no_other_and_no_file(bundle_root: Path, variant: Variant, mapped: bool) -> None:
    path = locate_checkpoint(variant, Bundle(bundle_root))
    digest, loader = sha256_of(path), Loader(variant, path, mapped)
    model = entries(load_model(variant, path, torch.float16))
    original = entries(Loader(variant, path).original(torch.float32))
    double(loader.model(torch.float32))
    double(loader.original(torch.float32))
    assert_same(loader.model(torch.float16), model)
    assert_same(loader.original(torch.float32), original)
    assert sha256_of(path) == digest

"""State dicts in every wrapper and under every prefix that people publish, and the message where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fixtures.weights.wrappers import WRAPPERS, keys_found, named_as, unwrapped

PLAIN = {"conv.weight": torch.ones(2, 3), "norm.bias": torch.zeros(2)}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapper_comes_off_with_and_without_entries_beside_it(wrapper: str) -> None:
    for content in ({wrapper: PLAIN}, {"epoch": 3, wrapper: PLAIN, "optimizer": {"lr": 0.1}}):
        found = unwrapped(content)
        assert found is not None
        assert found.keys() == PLAIN.keys()


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "model._orig_mod."),
        *("module.module.", "_orig_mod.module.model.", "_forward_module.", "_forward_module._orig_mod.model."),
    ],
)
@pytest.mark.parametrize("wrappers", [(), ("model",), ("model", "state_dict"), ("state_dict", "model")], ids=str)
def test_prefixes_come_off_in_any_order(prefix: str, wrappers: tuple[str, ...]) -> None:
    content: Any = {f"{prefix}{key}": value for key, value in PLAIN.items()}
    for wrapper in wrappers:
        content = {wrapper: content, "epoch": 1}
    found = unwrapped(content)
    assert found is not None
    assert list(found) == list(PLAIN)


@pytest.mark.parametrize("content", [{"ema": {"shadow": PLAIN, "decay": 0.9}}, {"backbone": PLAIN, "epoch": 3}])
def test_the_one_entry_with_tensors_is_taken_whatever_its_name(content: Any) -> None:
    assert unwrapped(content) == PLAIN


def test_one_of_several_networks_is_not_guessed() -> None:
    assert unwrapped({"generator": PLAIN, "discriminator": PLAIN}) is None


@pytest.mark.parametrize("prefix", ["net.", "backbone.", "student.encoder."])
def test_prefix_of_a_persons_own_module_comes_off_where_the_model_lacks_it(prefix: str) -> None:
    prefixed = {f"{prefix}{key}": value for key, value in PLAIN.items()}
    assert named_as(prefixed, PLAIN.keys()) == PLAIN
    assert named_as(prefixed, prefixed.keys()) == prefixed
    assert named_as(prefixed, {"another.weight"}) == prefixed


def test_layer_compiled_or_sharded_alone_is_found() -> None:
    found = unwrapped({"conv._orig_mod.weight": torch.ones(1), "_fsdp_wrapped_module.norm.bias": torch.ones(1)})
    assert found is not None
    assert list(found) == ["conv.weight", "norm.bias"]


def test_averaged_model_of_torch_is_found() -> None:
    found = unwrapped(AveragedModel(nn.Linear(2, 2)).state_dict())
    assert found is not None
    assert list(found) == ["weight", "bias"]


def test_prefix_that_some_keys_lack_is_kept() -> None:
    mixed = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    assert unwrapped(mixed) == mixed


def test_averaged_weights_are_taken_only_where_there_are_no_others() -> None:
    averaged = {"weight": torch.full((1,), 2.0)}
    found = unwrapped({"state_dict_ema": averaged, "state_dict": {"weight": torch.ones(1)}})
    assert found is not None
    assert found["weight"].item() == 1
    assert unwrapped({"state_dict_ema": averaged, "epoch": 1}) == averaged


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epoch": 1, "generator": {"weight": 1}}, "the keys epoch, generator"),
        ({str(number): 1 for number in range(9)}, "the keys 0, 1, 2, 3, 4, 5, 6, 7 and others"),
        ({}, "no keys"),
        ([1], "one list"),
        (torch.ones(1), "one Tensor"),
    ],
    ids=["others", "many", "none", "list", "tensor"],
)
def test_message_has_the_keys_that_were_found(content: object, says: str) -> None:
    assert not unwrapped(content)
    assert keys_found(content) == says

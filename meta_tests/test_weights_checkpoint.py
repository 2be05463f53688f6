"""Checkpoint files: every official format is read, damaged ones are refused, and nothing in a file runs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fixtures.errors import InputError
from fixtures.models import family_named
from fixtures.spec import Variant
from fixtures.subject import load_model, locate_checkpoint, require_loadable
from fixtures.subject.model import _own_entries
from fixtures.synthetic.files import save_checkpoint
from fixtures.weights.bundle import Bundle
from fixtures.weights.checkpoint import read_state_dict, require_exact_keys, with_counters
from meta_tests.cache import link_tree
from meta_tests.test_weights_torchscript import Network, scripted

MIDAS = Variant(name="m", family="midas", model="MiDaS_small", height=64, width=64)
RAFT = Variant(name="r", family="raft", model="raft_small", height=128, width=128)


@pytest.fixture
def bundle(bundle_root: Path, tmp_path: Path) -> Bundle:
    return Bundle(link_tree(bundle_root, tmp_path / "copy"))


def replace_file(path: Path, content: object, as_zip: bool = True) -> None:
    """Never written into: its content is shared with other tests."""
    path.unlink()
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)


# --- files of every kind ---

STORED = {
    "conv.weight": torch.arange(6.0).reshape(2, 3),
    "conv.bias": torch.tensor([0.5, -1.0]).half(),
    "norm.num_batches_tracked": torch.tensor(3),
}
WRITERS: dict[str, Callable[[Path], object]] = {
    "a.pt": lambda path: scripted(Network(), path),
    "a.pth": lambda path: torch.save(STORED, path),
    "a.safetensors": lambda path: safetensors.torch.save_file(STORED, path),
    "a.pth.tar": lambda path: save_checkpoint(STORED, path, "state_dict"),
}


@pytest.mark.parametrize("lazily", [False, True], ids=["read", "lazily"])
@pytest.mark.parametrize("how", ["half", "zero bytes", "one byte less"])
@pytest.mark.parametrize("name", WRITERS)
def test_file_that_was_cut_is_refused(tmp_path: Path, name: str, how: str, lazily: bool) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    path.write_bytes({"half": whole[: len(whole) // 2], "zero bytes": b"", "one byte less": whole[:-1]}[how])
    with pytest.raises(InputError) as caught:
        read_state_dict(path, lazily=lazily)
    # torch calls some cuts an invalid argument of the operating system.
    assert str(caught.value).startswith((f"{path}: content=damaged (", f"{path}: file=Invalid argument, "))
    assert " checkpoint. " in str(caught.value)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.pth.tar"])
def test_every_format_gives_the_same_tensors(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    read = read_state_dict(tmp_path / name)
    assert read.keys() == STORED.keys()
    for key, value in STORED.items():
        assert torch.equal(read[key], value.float() if value.is_floating_point() else value), key
        assert read[key].dtype == (torch.float32 if value.is_floating_point() else torch.int64), key
    lazily = read_state_dict(tmp_path / name, lazily=True)
    assert {key: (value.shape, value.dtype) for key, value in lazily.items()} == {
        key: (value.shape, value.dtype) for key, value in STORED.items()
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_any_floating_dtype_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({"weight": torch.tensor([0.5, -2.0], dtype=dtype), "count": torch.tensor(3)}, tmp_path / "a.pth")
    read = read_state_dict(tmp_path / "a.pth")
    assert {key: value.dtype for key, value in read.items()} == {"weight": torch.float32, "count": torch.int64}
    assert read["weight"].tolist() == [0.5, -2.0]


PREFIXED = {f"module.{key}": value for key, value in STORED.items()}


@pytest.mark.parametrize(
    "content",
    [
        STORED,
        PREFIXED,
        {"epoch": 90, "arch": "resnet50", "best_prec1": torch.tensor(0.5), "state_dict": PREFIXED},
        {"state_dict": STORED},
        {"model": STORED, "optimizer": {"lr": 0.1}},
        {"model": PREFIXED, "optimizer": {}},
    ],
    ids=["bare", "parallel", "epoch with a parallel one", "state_dict", "model", "parallel model"],
)
def test_state_dict_is_found_in_a_training_checkpoint(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "a.pth.tar")
    read = read_state_dict(tmp_path / "a.pth.tar")
    assert list(read) == list(STORED)


def test_prefix_that_some_keys_lack_is_kept(tmp_path: Path) -> None:
    mixed = {"module.weight": torch.zeros(1), "head.weight": torch.zeros(1)}
    torch.save(mixed, tmp_path / "a.pth")
    assert read_state_dict(tmp_path / "a.pth").keys() == mixed.keys()


@pytest.mark.parametrize("lazily", [False, True], ids=["read", "lazily"])
@pytest.mark.parametrize(
    "content",
    [
        {"epoch": 1},
        {"state_dict": {"epoch": 1}},
        {"weight": torch.zeros(1), "epoch": 1},
        torch.zeros(1),
        [STORED],
        None,
    ],
    ids=["numbers", "numbers in it", "a number among them", "a tensor", "a list", "nothing"],
)
def test_file_without_tensors_by_name_is_refused(tmp_path: Path, content: object, lazily: bool) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth: content=no state dict but .*, expected tensors by name, or one of"):
        read_state_dict(tmp_path / "a.pth", lazily=lazily)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.pth: file=No such file or directory, expected a readable checkpoint"):
        read_state_dict(tmp_path / "a.pth")


# --- checkpoints of models ---


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("print('this ran')",)


def _without_first_key(state_dict: dict[str, Tensor], first: str) -> None:
    del state_dict[first]


def _with_another_key(state_dict: dict[str, Tensor], _: str) -> None:
    state_dict["head.weight"] = torch.zeros(1)


def _with_another_shape(state_dict: dict[str, Tensor], first: str) -> None:
    state_dict[first] = state_dict[first][:1].clone()


def _with_an_integer(state_dict: dict[str, Tensor], first: str) -> None:
    state_dict[first] = state_dict[first].long()


KEY_CHANGES = {
    "key missing": _without_first_key,
    "key unknown": _with_another_key,
    "other shape": _with_another_shape,
    "an integer": _with_an_integer,
}
CONTENTS = {"code in a zip": {"weight": _Code()}, "no state dict": [torch.zeros(1)]}


def _break(path: Path, how: str) -> None:
    whole, state_dict = path.read_bytes(), read_state_dict(path)
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how in CONTENTS:
        torch.save(CONTENTS[how], path)
    elif how in KEY_CHANGES:
        KEY_CHANGES[how](state_dict, next(iter(state_dict)))
        torch.save(state_dict, path)
    elif how != "missing":
        raw = {
            "zero bytes": b"",
            "half a file": whole[: len(whole) // 2],
            "text": b"no\n",
            "code": pickle.dumps(_Code()),
        }
        path.write_bytes(raw[how])


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "file=missing, expected the official checkpoint. Put it there; nothing is downloaded."),
        ("folder", "file=a folder"),
        ("zero bytes", "content=damaged"),
        ("half a file", "content=damaged"),
        ("text", "content=damaged (invalid load key, 110)"),
        ("code", "content=a pickle with builtins.exec, which may run code"),
        ("code in a zip", "content=a pickle with builtins.exec, which may run code"),
        ("no state dict", "content=no state dict"),
        ("key missing", "1 keys missing, first 'feature_encoder"),
        ("key unknown", "1 keys unknown, first 'head.weight'"),
        ("other shape", "1 shapes differ, first 'feature_encoder"),
        ("an integer", "weight' torch.int64 for torch.float32"),
    ],
)
def test_broken_checkpoint_is_refused_before_anything_is_measured(
    bundle: Bundle, capfd: pytest.CaptureFixture[str], how: str, says: str
) -> None:
    path = locate_checkpoint(RAFT, bundle)
    _break(path, how)
    with pytest.raises(InputError) as caught:
        require_loadable(RAFT, bundle)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "this ran" not in capfd.readouterr().out


def test_checkpoint_of_another_model_is_refused(bundle: Bundle) -> None:
    replace_file(locate_checkpoint(RAFT, bundle), read_state_dict(locate_checkpoint(MIDAS, bundle)))
    with pytest.raises(InputError, match=r"keys missing.*keys unknown.*expected the 1\d\d keys"):
        require_loadable(RAFT, bundle)


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "before torch 1.6"])
def test_both_formats_of_torch_are_read(bundle: Bundle, as_zip: bool) -> None:
    path = locate_checkpoint(RAFT, bundle)
    replace_file(path, read_state_dict(path), as_zip)
    require_loadable(RAFT, bundle)


def test_counter_that_is_a_floating_number_is_refused(bundle: Bundle) -> None:
    path = locate_checkpoint(MIDAS, bundle)
    replace_file(path, {key: value.float() for key, value in read_state_dict(path).items()})
    with pytest.raises(
        InputError, match=r"dtypes differ, first '.*num_batches_tracked' torch\.float32 for torch\.int64"
    ):
        require_loadable(MIDAS, bundle)


def test_weights_of_half_precision_load_as_float32(bundle: Bundle) -> None:
    path = locate_checkpoint(MIDAS, bundle)
    stored = {key: value.half() if value.is_floating_point() else value for key, value in read_state_dict(path).items()}
    replace_file(path, stored)
    require_loadable(MIDAS, bundle)
    model = load_model(MIDAS, path)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert torch.isfinite(model(torch.zeros(1, 3, 64, 64))).all()


def test_training_checkpoint_of_a_model_loads(bundle: Bundle) -> None:
    path = locate_checkpoint(RAFT, bundle)
    replace_file(path, {"optimizer": {"moments": {"weight": torch.ones(1)}}, "model": read_state_dict(path)})
    require_loadable(RAFT, bundle)


# --- keys ---


NORMED = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2))
COUNTERS = ["1.num_batches_tracked", "2.num_batches_tracked"]


def without(*keys: str) -> dict[str, Tensor]:
    """The weights of a small network, as torch before 0.4.1 saved them where no counter is left."""
    return {key: value for key, value in NORMED.state_dict().items() if key not in keys}


def test_counters_that_are_all_absent_are_zero(tmp_path: Path) -> None:
    completed = with_counters(without(*COUNTERS), NORMED)
    require_exact_keys(tmp_path, completed, NORMED)
    assert [completed[key].item() for key in COUNTERS] == [0, 0]


@pytest.mark.parametrize("missing", [COUNTERS[:1], [*COUNTERS, "1.running_mean"]], ids=["one", "and others"])
def test_counter_is_missing_where_others_are_there_or_more_is_missing(tmp_path: Path, missing: list[str]) -> None:
    completed = with_counters(without(*missing), NORMED)
    with pytest.raises(InputError, match=f"{len(missing)} keys missing"):
        require_exact_keys(tmp_path, completed, NORMED)


def test_surplus_entries_of_openais_archives_are_left_out(tmp_path: Path) -> None:
    clip = family_named("clip")
    numbers = {key: torch.tensor(77) for key in ("input_resolution", "context_length", "vocab_size")}
    save_checkpoint({**STORED, **numbers}, tmp_path / "a.pt", "torchscript")
    for lazily in (False, True):
        state_dict = read_state_dict(tmp_path / "a.pt", lazily=lazily)
        assert state_dict.keys() == STORED.keys() | numbers.keys()
        assert _own_entries(state_dict, clip).keys() == STORED.keys()
        assert _own_entries(state_dict, family_named("timm")).keys() == state_dict.keys()


def test_other_surplus_entries_are_refused(tmp_path: Path) -> None:
    module = nn.Linear(2, 3)
    state_dict = {**module.state_dict(), "vocab_sizes": torch.tensor(1)}
    left = _own_entries(state_dict, family_named("clip"))
    with pytest.raises(InputError, match="keys=1 keys unknown, first 'vocab_sizes', expected the 2 keys"):
        require_exact_keys(tmp_path, left, module)

"""Training checkpoints: harmless types of every spelling are read, a type that may run code is named and refused."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import pathlib
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fixtures.errors import InputError
from fixtures.weights.checkpoint import read_state_dict
from fixtures.weights.pickles import ClosedUnpickler, RefusedTypeError, StandIn

WEIGHTS = {"conv.weight": torch.arange(6.0).reshape(2, 3).t(), "conv.bias": nn.Parameter(torch.ones(2))}
BESIDE: dict[str, object] = {
    "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(1e-4), "betas": (np.float32(0.9), 0.999)}]},
    "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("runs")),
    "arrays": [np.arange(4), np.array(["a"]), np.dtype("f4"), np.float32, np.bool_(True), np.int64(3)],
    "random": (np.random.get_state(), np.random.default_rng(0), torch.get_rng_state()),
    "sets": ({1, 2}, frozenset("ab"), collections.deque([1]), collections.Counter("ab"), 1j, slice(1)),
    "masked": np.ma.masked_array([1, 2], [False, True]),
    "sparse": torch.eye(2).to_sparse(),
    "lengths": range(3),
    "groups": collections.defaultdict(list, a=[1]),
    "when": datetime.datetime(2021, 3, 4, tzinfo=datetime.UTC),
    "dtype": torch.float16,
    "device": torch.device("cuda:0"),
    "bytes": b"\xff\0",
}


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("protocol", range(1, 6))
def test_what_training_leaves_is_read_in_every_protocol(tmp_path: Path, protocol: int, as_zip: bool) -> None:
    path = tmp_path / "a.pt"
    content = {"epoch": 15, "state_dict": WEIGHTS, **BESIDE}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=as_zip)
    for lazily in (False, True):
        read = read_state_dict(path, lazily)
        assert {key: value.tolist() for key, value in read.items()} == {
            key: value.tolist() for key, value in WEIGHTS.items()
        }


@pytest.mark.parametrize("numpy_of", [b"numpy.core.multiarray", b"numpy._core.multiarray"], ids=["NumPy 1", "NumPy 2"])
def test_scalars_are_read_in_the_spelling_of_either_numpy(tmp_path: Path, numpy_of: bytes) -> None:
    path = tmp_path / "a.pt"
    torch.save({"lr": np.float64(1e-4), "state_dict": WEIGHTS}, path, _use_new_zipfile_serialization=False)
    spelled = path.read_bytes().replace(b"numpy._core.multiarray", numpy_of)
    assert numpy_of in spelled
    path.write_bytes(spelled)
    assert read_state_dict(path).keys() == WEIGHTS.keys()


def test_strings_of_python_2_are_read(tmp_path: Path) -> None:
    """Places365 published files that Python 2 had written, whose strings are bytes of Latin 1."""
    torch.save({"arch": "caf\u00e9", "state_dict": {"bias": torch.ones(2)}}, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "a.pt", "w") as old:
        for name in new.namelist():
            record = new.read(name)
            if name.endswith("data.pkl"):
                record = record.replace(b"X\x05\0\0\0caf\xc3\xa9", b"U\x04caf\xe9")
                assert b"U\x04caf" in record
            old.writestr(name, record)
    assert read_state_dict(tmp_path / "a.pt")["bias"].tolist() == [1, 1]


class Code:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self._reduced


REFUSED: dict[str, object] = {
    "builtins.eval": Code(eval, "print('this ran')"),
    "builtins.getattr": Code(getattr, torch.float32, "itemsize"),
    "builtins.exec": Code(exec, "print('this ran')"),
    "torch.serialization.load": Code(torch.load, "a.pt"),
    "torch.nn.modules.linear.Linear": nn.Linear(2, 2),
    "functools.partial": Code(__import__("functools").partial, eval, "print('this ran')"),
}


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("name", REFUSED)
def test_other_type_is_refused_by_its_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, as_zip: bool
) -> None:
    path = tmp_path / "a.pt"
    torch.save({"state_dict": WEIGHTS, "hook": REFUSED[name]}, path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(InputError) as caught:
        read_state_dict(path)
    assert str(caught.value) == (
        f"{path}: content=a pickle with {name}, which may run code, expected tensors by name, beside them plain "
        "values. Where its code is at hand and trusted, save the weights alone: "
        "`torch.save(model.state_dict(), FILE)`, of a file `checkpoint = torch.load(OLD, weights_only=False)`."
    )
    assert "this ran" not in capfd.readouterr().out


def loaded(content: bytes) -> Any:
    return ClosedUnpickler(io.BytesIO(content)).load()


def test_functions_of_the_list_take_no_attributes() -> None:
    """`__defaults__` of a function would stay changed for everything that runs after it."""
    state = b"(N}X\x0c\0\0\0__defaults__NstR"
    for opcodes in (state, b"}X\x0c\0\0\0__defaults__Nsb."):
        with pytest.raises(Exception, match=r".+") as caught:
            loaded(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + opcodes)
        assert not isinstance(caught.value, RefusedTypeError)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == (None,)


def test_stand_in_is_never_the_type_itself() -> None:
    for value in (np.float64(1), np.arange(3), argparse.Namespace(a=1), pathlib.PurePosixPath("/etc"), {1, 2} | {3.5}):
        assert isinstance(loaded(pickle.dumps(value, protocol=2)), StandIn)


def test_storage_beyond_its_file_is_refused_before_there_is_room_for_it(tmp_path: Path) -> None:
    """A damaged number took all memory of the machine."""
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.ones(7)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    at = whole.index(b"K\x07Ntq")  # the number of elements, then no view
    path.write_bytes(whole[:at] + b"J\xff\xff\xff\x7f" + whole[at + 2 :])
    with pytest.raises(
        InputError, match=r"content=damaged \(a storage of 2147483647 elements in a file of \d+ bytes\)"
    ):
        read_state_dict(path)


def test_number_of_a_memorized_object_takes_no_memory() -> None:
    """The unpickler in C makes room for two to the power of 32 of them."""
    assert loaded(b"\x80\x02Nr\xff\xff\xff\xff.") is None


def test_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    """Torch would enlarge the storage by memory of any content."""
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.ones(7)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    at = whole.index(b"K\x07\x85", whole.index(b"_rebuild_tensor_v2"))
    path.write_bytes(whole[: at + 1] + b"\x63" + whole[at + 2 :])
    with pytest.raises(InputError, match=r"content=damaged \(a tensor of \(99,\) in a storage of 7 elements\)"):
        read_state_dict(path)

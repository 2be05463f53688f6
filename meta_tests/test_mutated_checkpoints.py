"""Damaged checkpoints of every format: the same tensors, or one message; nothing in a file runs or takes memory."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fixtures.errors import InputError
from fixtures.files import sha256_of
from fixtures.synthetic.files import save_checkpoint
from fixtures.weights.checkpoint import read_state_dict, require_exact_keys
from fixtures.weights.integrity import require_whole
from meta_tests.mutations import mutated, mutations_of_each, require_one_message


def network() -> nn.Module:
    """Weights, statistics and a counter."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


MODULE = network()
RIGHT = MODULE.state_dict()
TRAINED = {
    "epoch": 3,
    "state_dict": RIGHT,
    "optimizer": {"state": {0: {"step": torch.ones(())}}, "param_groups": [{"lr": np.float64(1e-4)}]},
    "args": argparse.Namespace(lr=0.1),
}


def _as_zip(path: Path) -> None:
    torch.save(RIGHT, path)


def _trained(path: Path) -> None:
    torch.save(TRAINED, path)


def _legacy(path: Path) -> None:
    torch.save(RIGHT, path, _use_new_zipfile_serialization=False)


def _legacy_trained(path: Path) -> None:
    torch.save(TRAINED, path, _use_new_zipfile_serialization=False)


def _torchscript(path: Path) -> None:
    save_checkpoint(
        {f"m.{key}": value for key, value in RIGHT.items() if value.is_floating_point()}, path, "torchscript"
    )


def _safetensors(path: Path) -> None:
    safetensors.torch.save_file(RIGHT, path)


# How a file is written, and whether it has checksums of its own.
FORMATS: dict[str, tuple[Callable[[Path], None], bool]] = {
    "zip": (_as_zip, True),
    "zip with training state": (_trained, True),
    "before torch 1.6": (_legacy, False),
    "before torch 1.6 with training state": (_legacy_trained, False),
    "torchscript": (_torchscript, True),
    "safetensors": (_safetensors, False),
}


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, read both ways. Raises InputError."""
    read, lazily = read_state_dict(path), read_state_dict(path, lazily=True)
    require_whole(path, sha256_of(path))
    assert shapes(read) == shapes(lazily)
    return read


def shapes(read: dict[str, Tensor]) -> dict[str, torch.Size]:
    """Of the tensors of a file."""
    return {key: value.shape for key, value in read.items()}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_checkpoint_has_its_tensors_or_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    write, has_checksums = FORMATS[name]
    path = tmp_path / "a.pt"
    write(path)
    content, right = path.read_bytes(), tensors(path)
    for done, damaged in mutated(content, mutations_of_each(len(FORMATS)), name):
        path.write_bytes(damaged)
        try:
            read = tensors(path)
            # Without checksums the module still tells: other keys, shapes and kinds of numbers are refused.
            if name != "torchscript":
                require_exact_keys(path, read, MODULE)
        except InputError as error:
            require_one_message(error, done)
            continue
        except BaseException as error:
            raise AssertionError(done) from error
        assert {key: value.shape for key, value in read.items()} == {
            key: value.shape for key, value in right.items()
        }, done
        if has_checksums:
            assert all(torch.equal(read[key], value) for key, value in right.items()), done
    assert capfd.readouterr() == ("", "")

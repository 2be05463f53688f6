"""Tensors out of archives and checkpoints: exactly those that are in them, and nothing that is in them runs."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fixtures.errors import InputError
from fixtures.models import family_named
from fixtures.subject import _own_entries
from fixtures.synthetic.files import save_checkpoint
from fixtures.weights.checkpoint import read_state_dict, require_exact_keys
from fixtures.weights.torchscript import is_torchscript, read_torchscript


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(images))
        return normed


class Network(nn.Module):
    """Has a program, plain attributes, and tensors of every kind that archives store."""

    def __init__(self) -> None:
        super().__init__()
        self.widths, self.label, self.ratio, self.pair, self.nothing = [1, 2], "label", 0.5, (1, 2.0), None
        self.blocks = nn.ModuleList([Block(), Block()])
        self.low = nn.Parameter(torch.randn(5).half())
        self.brain = nn.Parameter(torch.randn(5).bfloat16())
        self.shared = self.blocks[0].get_parameter("conv.weight")
        base = torch.arange(12.0).reshape(3, 4)
        tensors = {
            "base": base,
            "view": base[1:, 1:3],  # of the same storage, with an offset and gaps
            "transposed": base.t(),
            "last": base[2, 3],
            "precise": torch.tensor([0.1], dtype=torch.float64),
            "resolution": torch.tensor(224),
            "short": torch.tensor([1, 2], dtype=torch.int16),
            "byte": torch.tensor([255], dtype=torch.uint8),
            "flag": torch.tensor([True, False]),
            "empty": torch.empty(0, 3),
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, images: Tensor) -> Tensor:
        for block in self.blocks:
            images = block(images)[:, :3] * self.ratio
        return images


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return scripted(Network(), tmp_path_factory.mktemp("archive") / "network.pt")


def scripted(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, as the official files are
        torch.jit.save(torch.jit.script(module), path)
    return path


def loaded_by_torch(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state_dict: dict[str, Tensor] = torch.jit.load(path, map_location="cpu").state_dict()
    return state_dict


def forbidden(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("this may not be called")


def rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """The archive with other contents of its records."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    changed = path.with_name("changed.pt")
    with zipfile.ZipFile(changed, "w", zipfile.ZIP_STORED) as archive:
        for name, record in records.items():
            archive.writestr(name, change(name, record))
    return changed


# --- archives of programs ---


def test_the_tensors_are_those_that_torch_loads(saved: Path) -> None:
    read, expected = read_torchscript(saved), loaded_by_torch(saved)
    assert read.keys() == expected.keys()
    for key, value in expected.items():
        assert read[key].dtype == value.dtype, key
        assert torch.equal(read[key], value), key
        assert read[key].is_contiguous(), key
    assert {tensor.dtype for tensor in read.values()} == {
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.int16, torch.int64, torch.uint8, torch.bool),
    }


def test_a_checkpoint_of_it_is_in_float32(saved: Path) -> None:
    read, stored = read_state_dict(saved), loaded_by_torch(saved)
    assert read.keys() == stored.keys()
    for key, value in stored.items():
        expected = value.float() if value.is_floating_point() else value
        assert read[key].dtype == expected.dtype, key
        assert torch.equal(read[key], expected), key


def test_lazily_shapes_are_known_and_nothing_is_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_torchscript(saved)
    monkeypatch.setattr(torch._C, "PyTorchFileReader", forbidden)
    opened: list[str] = []
    read = zipfile.ZipFile.read

    def noted(archive: zipfile.ZipFile, name: str) -> bytes:
        opened.append(name)
        return read(archive, name)

    monkeypatch.setattr(zipfile.ZipFile, "read", noted)
    lazily = read_state_dict(saved, lazily=True)
    assert [name.rpartition("/")[2] for name in opened] == ["data.pkl"]
    assert {tensor.device.type for tensor in lazily.values()} == {"meta"}
    assert {key: (value.shape, value.dtype) for key, value in lazily.items()} == {
        key: (value.shape, value.dtype) for key, value in expected.items()
    }


def test_the_program_is_neither_run_nor_compiled(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("load", "script", "trace"):
        monkeypatch.setattr(torch.jit, name, forbidden)
    monkeypatch.setattr(torch._C, "import_ir_module", forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    broken = rewritten(saved, lambda name, record: b"no program" if name.endswith(".py") else record)
    assert read_state_dict(broken).keys() == read_state_dict(saved).keys()


def test_an_archive_of_a_program_is_told_from_one_of_tensors(saved: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "tensors.pt")
    (tmp_path / "text.pt").write_text("no archive")
    assert is_torchscript(saved)
    assert not is_torchscript(tmp_path / "tensors.pt")
    assert not is_torchscript(tmp_path / "text.pt")


class Code:
    """Calls a function when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("lazily", [False, True], ids=["read", "lazily"])
def test_code_in_an_archive_is_refused_and_does_not_run(saved: Path, tmp_path: Path, lazily: bool) -> None:
    marker = tmp_path / "it_ran"
    code = pickle.dumps(Code(marker), protocol=2)
    path = rewritten(saved, lambda name, record: code if name.endswith("/data.pkl") else record)
    with pytest.raises(InputError) as caught:
        read_state_dict(path, lazily=lazily)
    assert str(caught.value).startswith(
        f"{path}: content=code or an unreadable pickle, expected a file with tensors only"
    )
    assert not marker.exists()


@pytest.mark.parametrize(
    "named",
    [
        b"builtins\neval",
        b"torch\nload",
        b"torch._utils\n_rebuild_tensor",
        b"fixtures.weights.torchscript\n_Module",
        b"os\nsystem",
    ],
    ids=lambda named: named.decode().replace("\n", "."),
)
def test_whatever_else_a_tree_names_is_refused(saved: Path, named: bytes) -> None:
    tree = b"\x80\x02c" + named + b"\n."
    path = rewritten(saved, lambda name, record: tree if name.endswith("/data.pkl") else record)
    with pytest.raises(InputError, match="content=code or an unreadable pickle"):
        read_state_dict(path)


def test_a_tree_of_itself_ends(saved: Path) -> None:
    """A module that is its own attribute."""
    tree = b"\x80\x02c__torch__\nNetwork\n)\x81q\x00}X\x04\x00\x00\x00selfh\x00sb."
    path = rewritten(saved, lambda name, record: tree if name.endswith("/data.pkl") else record)
    with pytest.raises(InputError, match="content=damaged"):
        read_state_dict(path)


def test_views_beyond_their_storage_are_refused(saved: Path) -> None:
    """Of the buffer `view`, whose offset comes after its storage."""
    with zipfile.ZipFile(saved) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        tree = archive.read(name)
    at = tree.index(b"K\x05(K\x02K\x02t(K\x04K\x01t", tree.index(b"view"))  # offset, shape, strides
    changed = tree[:at] + b"K\x07" + tree[at + 2 :]
    path = rewritten(saved, lambda name, record: changed if name.endswith("/data.pkl") else record)
    with pytest.raises(InputError, match=r"content=damaged .*storage offset 7"):
        read_state_dict(path)


def test_a_record_that_is_shorter_than_its_tensor_is_refused(saved: Path) -> None:
    def halved(name: str, record: bytes) -> bytes:
        return record[: len(record) // 2] if "/data/" in name else record

    with pytest.raises(InputError, match="content=damaged"):
        read_state_dict(rewritten(saved, halved))


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
def test_a_file_that_was_cut_is_refused(tmp_path: Path, name: str, how: str, lazily: bool) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    path.write_bytes({"half": whole[: len(whole) // 2], "zero bytes": b"", "one byte less": whole[:-1]}[how])
    with pytest.raises(InputError) as caught:
        read_state_dict(path, lazily=lazily)
    # torch calls some cuts an invalid argument of the operating system.
    assert str(caught.value).startswith((f"{path}: content=damaged (", f"{path}: file=Invalid argument, "))
    assert str(caught.value).endswith(" checkpoint. Put the official file there.")


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
def test_a_state_dict_is_found_in_what_training_saves(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "a.pth.tar")
    read = read_state_dict(tmp_path / "a.pth.tar")
    assert list(read) == list(STORED)


def test_a_prefix_that_some_keys_lack_is_a_name(tmp_path: Path) -> None:
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
def test_what_holds_no_tensors_by_name_is_refused(tmp_path: Path, content: object, lazily: bool) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth: content=no state dict, expected tensors by name\."):
        read_state_dict(tmp_path / "a.pth", lazily=lazily)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.pth: file=No such file or directory, expected a readable checkpoint"):
        read_state_dict(tmp_path / "a.pth")


# --- keys beyond the model's ---


def test_what_openais_archives_hold_beyond_the_model_is_left_out(tmp_path: Path) -> None:
    clip = family_named("clip")
    numbers = {key: torch.tensor(77) for key in ("input_resolution", "context_length", "vocab_size")}
    save_checkpoint({**STORED, **numbers}, tmp_path / "a.pt", "torchscript")
    for lazily in (False, True):
        state_dict = read_state_dict(tmp_path / "a.pt", lazily=lazily)
        assert state_dict.keys() == STORED.keys() | numbers.keys()
        assert _own_entries(state_dict, clip).keys() == STORED.keys()
        assert _own_entries(state_dict, family_named("timm")).keys() == state_dict.keys()


def test_no_other_surplus_is_taken(tmp_path: Path) -> None:
    module = nn.Linear(2, 3)
    state_dict = {**module.state_dict(), "vocab_sizes": torch.tensor(1)}
    left = _own_entries(state_dict, family_named("clip"))
    with pytest.raises(InputError, match="keys=1 keys unknown, first 'vocab_sizes', expected the 2 keys"):
        require_exact_keys(tmp_path, left, module)

"""TorchScript archives: their tensors are read, and the program beside them neither runs nor compiles."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn

from fixtures.errors import InputError
from fixtures.weights.checkpoint import read_state_dict
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


def test_tensors_are_those_that_torch_loads(saved: Path) -> None:
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


def test_floating_tensors_of_an_archive_become_float32(saved: Path) -> None:
    read, stored = read_state_dict(saved), loaded_by_torch(saved)
    assert read.keys() == stored.keys()
    for key, value in stored.items():
        expected = value.float() if value.is_floating_point() else value
        assert read[key].dtype == expected.dtype, key
        assert torch.equal(read[key], expected), key


def test_lazy_reading_gives_shapes_and_reads_no_tensor(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_program_is_neither_run_nor_compiled(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("load", "script", "trace"):
        monkeypatch.setattr(torch.jit, name, forbidden)
    monkeypatch.setattr(torch._C, "import_ir_module", forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    broken = rewritten(saved, lambda name, record: b"no program" if name.endswith(".py") else record)
    assert read_state_dict(broken).keys() == read_state_dict(saved).keys()


def test_archive_of_a_program_is_told_from_one_of_tensors(saved: Path, tmp_path: Path) -> None:
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
        f"{path}: content=a pickle with posix.system, which may run code, expected tensors by name"
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
def test_any_other_name_in_the_tree_is_refused(saved: Path, named: bytes) -> None:
    tree = b"\x80\x02c" + named + b"\n."
    path = rewritten(saved, lambda name, record: tree if name.endswith("/data.pkl") else record)
    with pytest.raises(InputError, match=r"content=a pickle with .*, which may run code"):
        read_state_dict(path)


def test_module_that_contains_itself_is_refused(saved: Path) -> None:
    tree = b"\x80\x02c__torch__\nNetwork\n)\x81q\x00}X\x04\x00\x00\x00selfh\x00sb."
    path = rewritten(saved, lambda name, record: tree if name.endswith("/data.pkl") else record)
    with pytest.raises(InputError, match="content=damaged"):
        read_state_dict(path)


def test_view_beyond_its_storage_is_refused(saved: Path) -> None:
    """Changes the offset of the buffer `view`."""
    with zipfile.ZipFile(saved) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        tree = archive.read(name)
    at = tree.index(b"K\x05(K\x02K\x02t(K\x04K\x01t", tree.index(b"view"))  # offset, shape, strides
    changed = tree[:at] + b"K\x07" + tree[at + 2 :]
    path = rewritten(saved, lambda name, record: changed if name.endswith("/data.pkl") else record)
    with pytest.raises(InputError, match=r"content=damaged .*storage offset 7"):
        read_state_dict(path)


def test_record_that_is_shorter_than_its_tensor_is_refused(saved: Path) -> None:
    def halved(name: str, record: bytes) -> bytes:
        return record[: len(record) // 2] if "/data/" in name else record

    with pytest.raises(InputError, match="content=damaged"):
        read_state_dict(rewritten(saved, halved))

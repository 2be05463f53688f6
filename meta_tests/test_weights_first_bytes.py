"""Files that are no checkpoints are known by their first bytes, and checkpoints by theirs, whatever their names."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from fixtures.errors import InputError
from fixtures.weights.checkpoint import read_state_dict

STORED = {"weight": torch.arange(6.0)}


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("resnet.pt"), io.BytesIO())


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/resnet.pt", b"")


def _npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, weight=np.ones(3))


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 357\n"
NO_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "page": (_bytes(b"\n <!DOCTYPE html><html>Sign in"), "a page of HTML or XML", "Download the file itself."),
    "marked page": (_bytes(b"\xef\xbb\xbf<html>"), "a page of HTML or XML", "Download the file itself."),
    "error of S3": (_bytes(b"<?xml version='1.0'?><Error>"), "a page of HTML or XML", "Download the file itself."),
    "pointer": (_bytes(LFS), "a git-lfs pointer, not the file it stands for", "Run `git lfs pull`."),
    "json": (_bytes(b'{"error": "Repository not found"}'), "JSON text, such as an error", "Download the file itself."),
    "gzip": (_bytes(gzip.compress(b"a" * 99)), "a gzip archive", "Unpack it."),
    "tar": (_tar, "a tar archive, of several files or of torch before 0.2", "Unpack it, or save it again."),
    "zip of a folder": (_zip, "a zip archive with weights/resnet.pt", "Unpack it; the checkpoint may be in it."),
    "npz": (_npz, "a zip archive with weight.npy", "Unpack it; the checkpoint may be in it."),
    "npy": (lambda path: path.write_bytes(b"\x93NUMPY\x01\0"), "a NumPy array", "Save a state dict with torch.save."),
    "hdf5": (_bytes(b"\x89HDF\r\n\x1a\n"), "an HDF5 file, as Keras writes", "Convert it to a state dict of PyTorch."),
}


@pytest.mark.parametrize("lazily", [False, True], ids=["read", "lazily"])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
def test_other_file_is_named_with_the_next_step(tmp_path: Path, kind: str, name: str, lazily: bool) -> None:
    path, (write, says, next_step) = tmp_path / name, NO_CHECKPOINTS[kind]
    write(path)
    with pytest.raises(InputError) as caught:
        read_state_dict(path, lazily)
    assert str(caught.value).startswith(f"{path}: content={says}")
    assert str(caught.value).endswith(f", expected a checkpoint of PyTorch or safetensors. {next_step}")


def test_checkpoint_is_read_under_the_name_of_another_format(tmp_path: Path) -> None:
    safetensors.torch.save_file(STORED, tmp_path / "a.pt")
    torch.save(STORED, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        assert torch.equal(read_state_dict(tmp_path / name)["weight"], STORED["weight"]), name


def test_half_of_an_archive_is_called_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(STORED, path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match=r"content=damaged \(cut short: its archive has no directory\)"):
        read_state_dict(path)

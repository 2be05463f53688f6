"""Damaged checkpoints: the digest in a file's name and the checksums in its archive tell; nothing else is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fixtures.errors import InputError
from fixtures.files import sha256_of
from fixtures.weights.bundle import Bundle
from fixtures.weights.integrity import digest_in_name, require_whole
from meta_tests.models_root import RAFT, ModelsRoot, of


def flip(path: Path) -> None:
    """One bit in the middle of a file is another one."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("raft_small_C_T_V2-01064c6d.pth", "01064c6d"),
        ("dpt_large-midas-2f21e586.pt", "2f21e586"),
        ("resnet50-0676ba61a1.pth.tar", "0676ba61a1"),
        ("midas_v21_small_256.pt", None),
        ("run-20240131.pt", None),
        ("checkpoint-00012000.pt", None),
        ("model-abcdefg1.pt", None),
        ("best-abc123.pt", None),
    ],
)
def test_digest_in_a_name_is_told_from_dates_and_steps(name: str, digest: str | None) -> None:
    assert digest_in_name(name) == digest


def test_flipped_bit_is_refused_with_both_facts(tmp_path: Path) -> None:
    place = ModelsRoot(tmp_path)
    place.without_tokenizers()
    flip(place.root / RAFT)
    check = place.check()
    (problem,) = check.problems
    assert problem.startswith(f"{place.root / RAFT}: sha256=")
    assert "…, its name says 01064c6d; content=damaged (Bad CRC-32 for file" in problem
    assert "if it is meant to be another one, name it otherwise. What belongs there: the official weights" in problem
    found = of(check, RAFT)
    assert (found.loads, found.digest, found.synthetic) == ("yes", "none", False)
    assert of(place.check(), RAFT).problems == (problem,)
    with pytest.raises(InputError, match=r"its name says 01064c6d; content=damaged \(Bad CRC-32"):
        Bundle(place.root).weights(place.root / RAFT)


@pytest.mark.parametrize(("offset", "value"), [(34, 1), (38, 0x10)], ids=["another volume", "a folder"])
def test_entry_that_torch_would_not_read_is_damaged(tmp_path: Path, offset: int, value: int) -> None:
    """Its tensor would be memory of any content; no checksum covers the directory of an archive."""
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.ones(1000)}, path)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"a/data/0"))
    content[entry + offset] = value
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"content=damaged \(Bad attributes of file 'a/data/0'\)"):
        require_whole(path, sha256_of(path))


@pytest.mark.parametrize("how", ["zip", "archive without checksums", "before torch 1.6", "safetensors"])
def test_whole_file_passes_and_a_damaged_archive_does_not(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.pt"
    torch.serialization.set_crc32_options(how != "archive without checksums")
    try:
        if how == "safetensors":
            safetensors.torch.save_file({"weight": torch.ones(1000)}, path)
        else:
            torch.save({"weight": torch.ones(1000)}, path, _use_new_zipfile_serialization=how != "before torch 1.6")
    finally:
        torch.serialization.set_crc32_options(True)
    require_whole(path, sha256_of(path))
    named = path.rename(tmp_path / f"a-{sha256_of(path)[:8]}aa.pt")
    with pytest.raises(InputError, match=r": sha256=\w{10}…, its name says \w{8}aa, expected the file as it was"):
        require_whole(named, sha256_of(named))
    flip(named)
    path = named.rename(path)
    if how == "zip":
        with pytest.raises(InputError, match=r"a\.pt: content=damaged \(Bad CRC-32 for file 'a/data/0'\)"):
            require_whole(path, sha256_of(path))
    else:
        require_whole(path, sha256_of(path))


def test_synthetic_file_is_whole_by_its_digest(bundle_root: Path) -> None:
    path = bundle_root / RAFT
    weights = Bundle(bundle_root).weights(path)
    assert weights.synthetic
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() != digest_in_name(path.name)

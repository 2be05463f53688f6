"""meta_tests/digests.py: a digest that is kept is that of the file as it is now."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from fixtures import files
from fixtures.files import sha256_of
from meta_tests.digests import _LARGE_BYTES, keep_digests


def test_digest_is_kept_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(file: object, name: str) -> object:
        read.append(name)
        return compute(file, name)  # type: ignore[arg-type]

    compute = hashlib.file_digest
    monkeypatch.setattr(files, "hashlib", hashlib)
    monkeypatch.setattr(hashlib, "file_digest", counted)
    keep_digests()
    path, link, copy = (tmp_path / name for name in ("weights.pt", "link.pt", "copy.pt"))
    path.write_bytes(bytes(_LARGE_BYTES))
    os.link(path, link)
    shutil.copy2(path, copy)
    first = hashlib.sha256(bytes(_LARGE_BYTES)).hexdigest()
    assert [sha256_of(path), sha256_of(path), sha256_of(link)] == [first] * 3
    assert len(read) == 1
    with path.open("r+b") as file:
        file.write(b"\1")
    assert sha256_of(link) == hashlib.sha256(link.read_bytes()).hexdigest() != first
    assert sha256_of(copy) == first
    assert len(read) == 3

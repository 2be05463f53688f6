"""Digests of large files, computed once in a process: `make test` hashed 20 GB, of which 18 GB once more.

Tests share checkpoints and exported files by hard links, so that most of them hash the same few files.
"""

from __future__ import annotations

import hashlib
import os
from types import SimpleNamespace
from typing import Any

from fixtures import files

# A judgment: hashing takes 15 ms then, longer than the steps of a file system's clock, so that a file that is written
# into after it was hashed has another time.
_LARGE_BYTES = 16 * 1024**2


def keep_digests() -> None:
    """From now on `sha256_of` reads a large file once in this process, until it changes.

    Another process, and the digests of tools.check_bundle, are as they were.
    """
    known: dict[tuple[int, ...], Any] = {}

    def file_digest(file: Any, name: str) -> Any:
        state = os.fstat(file.fileno())
        if state.st_size < _LARGE_BYTES:
            return hashlib.file_digest(file, name)
        key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        if key not in known:
            known[key] = hashlib.file_digest(file, name)
        return known[key]

    files.hashlib = SimpleNamespace(file_digest=file_digest)  # type: ignore[assignment, attr-defined]

"""A folder that a process may not write to, also where it runs as root."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

_CAP_DAC_OVERRIDE = 1  # linux/capability.h: permission bits do not hold for a process that has it
_VERSION_3 = 0x20080522


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """The folder, and all below it, without permission to make, rename or remove files while the context is entered."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for one in folders:
        one.chmod(0o555)
    try:
        yield folder
    finally:
        for one in folders:
            one.chmod(0o755)


def heed_permissions() -> None:
    """Let permission bits hold for this process as for any other user's. Raises OSError where that is not possible."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for index in range(3):
        sets[index] &= ~(1 << _CAP_DAC_OVERRIDE)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")

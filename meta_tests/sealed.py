"""Seals the process that imports it: sockets refuse, and each attempt at one and each write to a file is noted.

`SEALED_LOG` names the file for the notes; the guard of the suite itself is not relied upon.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

_LOG = Path(os.environ["SEALED_LOG"])
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MAKING = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1}


def _note(kind: str, what: object) -> None:
    path = os.fsdecode(what) if isinstance(what, str | bytes | os.PathLike) else str(what)
    with os.fdopen(os.open(_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "w") as log:
        log.write(f"{kind} {path}\n")


def _absolute(path: object) -> str:
    return os.path.abspath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else str(path)  # noqa: PTH100


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, str | bytes) and (flags or 0) & _WRITES and os.fsdecode(path) != str(_LOG):
            _note("writes", _absolute(path))
    elif event in _MAKING:
        _note("writes", _absolute(arguments[_MAKING[event]]))


def _refuse(*arguments: object, **_: object) -> None:
    _note("network", arguments)
    raise ConnectionRefusedError("sealed")


for _name in ("connect", "connect_ex", "sendto", "sendmsg"):
    setattr(socket.socket, _name, _refuse)
for _name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, _name, _refuse)
sys.addaudithook(_audit)

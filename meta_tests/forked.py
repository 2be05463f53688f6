"""Sessions that begin in an instant: forked from a process that has already imported torch, instead of started.

A session started from nothing imports for eight seconds. Use one of those only where the start itself is under test.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fixtures.measure.fork_server import fork_server
from fixtures.processes import end_with_parent, take_interrupts

ROOT = Path(__file__).parent.parent


class ForkedPython:
    """In the place of `subprocess.Popen` of `python -m MODULE ARGUMENTS`, where these arguments are pytest's.

    Args:
        options: of `Popen`; of these, only `env` and whether `stdout` is a pipe count.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        place = command.index("-m")
        receiver, sender = fork_server().Pipe(duplex=False)
        output = sender if options.get("stdout") == subprocess.PIPE else None
        arguments = (command[place + 1], command[place + 2 :], dict(options.get("env") or os.environ), output)
        self._process = fork_server().Process(target=_run_module, args=arguments)
        self._process.start()
        sender.close()
        self.stdout = os.fdopen(os.dup(receiver.fileno()), errors="replace") if output else None
        receiver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.wait()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()


def run_forked(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """In the place of `subprocess.run` of the same, with the output of both streams."""
    process = ForkedPython(command, **{**options, "stdout": subprocess.PIPE})
    assert process.stdout is not None
    with process.stdout as output:
        text = output.read()
    code = process.wait()
    assert code is not None
    return subprocess.CompletedProcess(command, code, text)


def prepare_session(environment: Mapping[str, str]) -> None:
    """Make of a process that a fork server has forked one that a person has started from a terminal."""
    os.environ.clear()
    os.environ.update({name: value for name, value in environment.items() if not name.startswith("PYTEST_")})
    os.chdir(ROOT)
    end_with_parent()
    take_interrupts()
    share_fork_server()
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")


def share_fork_server() -> None:
    """Let this process, which a fork server has forked, use the same server: another would import for 5 s."""
    forkserver.ensure_running = _nothing
    forkserver._forkserver.ensure_running = _nothing  # type: ignore[method-assign]


def _nothing() -> None:
    """There is nothing to start."""


def _run_module(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], output: Connection | None
) -> None:
    target = output.fileno() if output else os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(target, descriptor)
    if output:
        output.close()
    prepare_session(environment)
    # Modules that the server has imported are too late for pytest's rewriting of asserts.
    sys.argv = [module, "--assert=plain", *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
